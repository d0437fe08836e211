"""Files of weights by name: of the Hub, and published checkpoints, which are converted once and kept in the cache."""

import logging
from pathlib import Path

from gcnet.checkpoints.download import check_digest, checkpoint_file, file_lock
from gcnet.checkpoints.hub import hub_file, is_hub_name
from gcnet.checkpoints.published_files import (
    PublishedFile,
    cached_path,
    find_published_file,
    names_published_file,
)
from gcnet.checkpoints.url_copies import cached_copy
from gcnet.errors import printable
from gcnet.remote_files import is_remote
from gcnet.storage import StorageError
from gcnet.tensor_files import load_tensors
from gcnet.version import __version__

_LOG = logging.getLogger("gcnet")


def is_remote_model(model: object) -> bool:
    """Return whether `model` is the URL of a model file or run, such as s3://bucket/run; not of a page or the Hub."""
    return is_remote(model) and not is_hub_name(model) and not str(model).lower().startswith(("http://", "https://"))


def remote_model_file(url: str) -> Path:
    """Return the model file at a URL, or the best weights of a run there; each version is downloaded once.

    Args:
        url: of a model file or a run folder.

    Returns:
        The file in the cache.

    Raises:
        UserError: there is no such file, or credentials are missing or refused.
        RemoteError: the download fails.
        StorageError: the cache cannot be written.
    """
    return cached_copy(url if url.endswith(".safetensors") else f"{url.rstrip('/')}/weights/best.safetensors")


def local_weights(weights: str | Path, *, download: bool) -> str | Path:
    """Return the file of a URL, a model on the Hub or a published checkpoint; anything else is returned unchanged.

    Args:
        weights: a name such as "hf://user/name" or "mmdet/mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco", a file, or
            "pretrained".
        download: download the file if it is not in the cache.

    Raises:
        UserError: an unknown name, or a file that is not in the cache, and `download` is false.
        Failure: the download fails, or the file in the cache is another one.
    """
    if is_hub_name(weights):
        return str(hub_file(str(weights), download=download))
    if is_remote_model(weights):
        return str(remote_model_file(str(weights)))
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

    A damaged model file is made again.

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
    converted = path.with_name(f"{path.stem}.gcnet-{__version__}.safetensors")
    if _is_whole(converted):
        return converted
    checkpoint_file(file, download=download)
    with file_lock(path):
        if not _is_whole(converted):
            if converted.is_file():
                _LOG.warning("%s is damaged, and is converted again", printable(converted))
            _convert(file, path, converted)
    return converted


def _is_whole(path: Path) -> bool:
    """Whether a file is there and its checksum matches."""
    try:
        load_tensors(path)
    except StorageError:
        return False
    return True


def _convert(file: PublishedFile, path: Path, converted: Path) -> None:
    from gcnet.models.conversion import convert_weights
    from gcnet.models.model_file import save_model

    check_digest(file, path)
    save_model(convert_weights(path, file.library).model, converted)
