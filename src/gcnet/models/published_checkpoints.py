"""Published checkpoints by name: converted once, and kept in the cache as model files."""

from importlib.metadata import version
from pathlib import Path

from gcnet.checkpoints.download import check_digest, checkpoint_file, file_lock
from gcnet.checkpoints.published_files import (
    PublishedFile,
    cached_path,
    find_published_file,
    names_published_file,
)


def local_weights(weights: str | Path, *, download: bool) -> str | Path:
    """Return the converted model file of a published checkpoint; anything else is returned unchanged.

    Args:
        weights: a name such as "mmdet/mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco", a file, or "pretrained".
        download: download the checkpoint if it is not in the cache.

    Raises:
        UserError: an unknown name, or a checkpoint that is not in the cache, and `download` is false.
        Failure: the download fails, or the file in the cache is another one.
    """
    if isinstance(weights, str) and names_published_file(weights):
        return str(converted_file(find_published_file(weights), download=download))
    return weights


def original_file(checkpoint: str, source: str | None, *, download: bool) -> tuple[Path, str | None]:
    """Return the file of a checkpoint, and its source for `gcnet.convert_checkpoint`.

    Args:
        checkpoint: a file, or the name of a published checkpoint, which is looked up in the cache.
        source: the source of a file; None to recognize it.
        download: download a published checkpoint that is not in the cache.

    Raises:
        UserError: an unknown name, or a checkpoint that is not in the cache, and `download` is false.
        Failure: the download fails, or the file in the cache is another one.
    """
    if not names_published_file(checkpoint):
        return Path(checkpoint), source
    file = find_published_file(checkpoint)
    path = checkpoint_file(file, download=download)
    check_digest(file, path)
    return path, source or file.library


def converted_file(file: PublishedFile, *, download: bool = False) -> Path:
    """Return the model file of a published checkpoint, which is made beside it in the cache.

    Args:
        file: the checkpoint.
        download: download it if it is not in the cache.

    Raises:
        UserError: it is not in the cache, and `download` is false; or gcnet cannot convert it.
        Failure: the download fails, or the file in the cache is another one.
        StorageError: the cache cannot be written.
    """
    path = cached_path(file)
    # Files of other versions may lack what a converter has learned since.
    converted = path.with_name(f"{path.stem}.gcnet-{version('gcnet')}.safetensors")
    if converted.is_file():
        return converted
    checkpoint_file(file, download=download)
    with file_lock(path):
        if not converted.is_file():
            _convert(file, path, converted)
    return converted


def _convert(file: PublishedFile, path: Path, converted: Path) -> None:
    from gcnet.models.conversion import convert_weights
    from gcnet.models.model_file import save_model

    check_digest(file, path)
    save_model(convert_weights(path, file.library).model, converted)
