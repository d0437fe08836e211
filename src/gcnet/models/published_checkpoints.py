"""Published checkpoints by name: converted once, and kept in the cache as model files."""

from importlib.metadata import version
from pathlib import Path

from gcnet.checkpoints.download import check_digest, checkpoint_file
from gcnet.checkpoints.published_files import (
    PublishedFile,
    cached_path,
    find_published_file,
    names_published_file,
)
from gcnet.errors import printable
from gcnet.storage import StorageError, locked


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
    if not path.is_file() and not download:
        checkpoint_file(file, download=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create {printable(path.parent)}: {error.strerror}") from error
    # Processes that need the same file wait for the first one.
    with locked(path.with_name(f".{path.name}.lock"), wait=True):
        if not converted.is_file():
            _convert(file, checkpoint_file(file, download=download), converted)
    return converted


def _convert(file: PublishedFile, path: Path, converted: Path) -> None:
    from gcnet.models.conversion import convert_weights
    from gcnet.models.model_file import save_model

    check_digest(file, path)
    save_model(convert_weights(path, file.library).model, converted)
