"""Preprocessing of published weights, from torchvision and timm."""

from pathlib import Path

from gcnet.checkpoints.timm import timm_preprocessing
from gcnet.checkpoints.torchvision import torchvision_preprocessing, torchvision_weights
from gcnet.data.settings import Preprocessing
from gcnet.models.model_file import read_model_file
from gcnet.models.pretrained import FIRST_VERSION, find_pretrained, pretrained_versions
from gcnet.models.registry import BASE_MODELS, is_detector, small_input
from gcnet.tensor_files import has_checksum

_USUAL = Preprocessing(224, 256)  # of ImageNet networks without published preprocessing


def published_preprocessing(
    name: str, weights: str | Path | None = "pretrained", *, training: bool = False
) -> Preprocessing | None:
    """Return the preprocessing of published weights.

    Args:
        name: network name without blocks.
        weights: "pretrained", a published version, or a file. A file of torchvision is recognized by its name; any
            other file counts as the first published version (torchvision's V1, timm's first tag).
        training: use the image size for training, if timm publishes a larger one for evaluation.

    Returns:
        The preprocessing; None for a detector, which prepares images itself, and for an unknown name.

    Raises:
        UserError: timm's preprocessing of this network is not supported.
    """
    if is_detector(name):
        return None
    small = small_input(name)
    if small is not None:
        return Preprocessing(small)
    library, versions = pretrained_versions(name)
    plain = name.rpartition("/")[2].partition(".")[0]
    if not versions:
        return _USUAL if name in BASE_MODELS else _unpublished(name, training)
    pretrained = find_pretrained(name, weights)
    version = pretrained.version if pretrained else _version_of_file(library, plain, versions, weights)
    if library == "torchvision":
        return Preprocessing.from_dict(torchvision_preprocessing(plain, version))
    return Preprocessing.from_dict(timm_preprocessing(plain, version, training=training))


def own_preprocessing(name: str, weights: str, *, training: bool = False) -> Preprocessing | None:
    """Return the preprocessing in a gcnet model file, or else that of the published weights.

    Args:
        name: network name without blocks.
        weights: "pretrained", a published version, or a file.
        training: as in `published_preprocessing`.
    """
    path = Path(weights)
    if path.is_file() and has_checksum(path):
        stored = read_model_file(path)[1].preprocessing
        if stored is not None:
            return Preprocessing.from_dict(stored)
    return published_preprocessing(name, weights, training=training)


def _version_of_file(library: str, plain: str, versions: list[str], weights: str | Path | None) -> str:
    if library != "torchvision":
        return versions[0]
    file = Path(weights or "").name
    urls = {version: Path(torchvision_weights(plain, version).url).name for version in versions}
    matching = next((version for version, url in urls.items() if url == file), None)
    return matching or (FIRST_VERSION if FIRST_VERSION in versions else versions[0])


def _unpublished(name: str, training: bool) -> Preprocessing | None:
    """Return the preprocessing in the timm configuration of a network without published weights."""
    import timm

    plain = name.rpartition("/")[2]
    if name.startswith("torchvision/") or not timm.is_model(plain):
        return _USUAL
    config = timm.get_pretrained_cfg(plain)
    if config is None:
        return _USUAL
    return Preprocessing.from_dict(timm_preprocessing(plain.partition(".")[0], config.tag or "", training=training))
