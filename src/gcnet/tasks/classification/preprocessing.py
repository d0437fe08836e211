"""Preprocessing of published weights, from torchvision and timm."""

import math
from pathlib import Path
from typing import Any

from gcnet.checkpoints.timm import timm_config
from gcnet.checkpoints.torchvision import torchvision_weights
from gcnet.data.settings import Preprocessing
from gcnet.errors import UserError
from gcnet.models.model_file import read_model_file
from gcnet.models.published import Published, find_published, published_versions
from gcnet.models.registry import BASE_MODELS, is_detector, small_input
from gcnet.storage import has_checksum

_USUAL = Preprocessing(224, 256)  # of ImageNet networks without published preprocessing
# With its own weights, torchvision normalizes the input of these inside the network (transform_input). Here the values
# are part of the preprocessing, which is stored in model files.
_NORMALIZED_INSIDE = ("googlenet", "inception_v3")
_FIRST_VERSION = "IMAGENET1K_V1"


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
    library, versions = published_versions(name)
    plain = name.rpartition("/")[2].partition(".")[0]
    if not versions:
        return _USUAL if name in BASE_MODELS else _unpublished(name, training)
    published = find_published(name, weights)
    version = published.version if published else _version_of_file(library, plain, versions, weights)
    chosen = Published(library, plain, version)
    return _of_torchvision(chosen) if library == "torchvision" else _of_timm(chosen, training)


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
    return matching or (_FIRST_VERSION if _FIRST_VERSION in versions else versions[0])


def _of_torchvision(published: Published) -> Preprocessing:
    transforms: Any = torchvision_weights(published.network, published.version).transforms()
    half = (0.5, 0.5, 0.5)
    inside = published.network in _NORMALIZED_INSIDE
    return Preprocessing(
        transforms.crop_size[0],
        transforms.resize_size[0],
        transforms.interpolation.value,
        half if inside else tuple(transforms.mean),
        half if inside else tuple(transforms.std),
    )


def _unpublished(name: str, training: bool) -> Preprocessing | None:
    """Return the preprocessing in the timm configuration of a network without published weights."""
    import timm

    plain = name.rpartition("/")[2]
    if name.startswith("torchvision/") or not timm.is_model(plain):
        return _USUAL
    config = timm.get_pretrained_cfg(plain)
    return (
        _USUAL if config is None else _of_timm(Published("timm", plain.partition(".")[0], config.tag or ""), training)
    )


def _of_timm(published: Published, training: bool) -> Preprocessing:
    from timm.data import resolve_data_config

    config = resolve_data_config(
        pretrained_cfg=timm_config(published.network, published.version).to_dict(), use_test_size=not training
    )
    height, width = config["input_size"][-2:]
    if height != width or config["crop_mode"] == "border":
        how = f"images of {height} x {width} pixels" if height != width else "images padded to a square"
        raise UserError(f"{published} is for {how}, which gcnet does not support")
    if config["crop_pct"] > 1:  # VOLO at 448 pixels and more
        short = math.floor(height / config["crop_pct"])
        raise UserError(
            f"{published} is for images resized to {short} pixels and padded to {height}, which gcnet does not support"
        )
    return Preprocessing(
        height,
        math.floor(height / config["crop_pct"]),
        config["interpolation"],
        tuple(config["mean"]),
        tuple(config["std"]),
        crop_mode=config["crop_mode"],
    )
