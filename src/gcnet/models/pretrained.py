"""Pretrained weights of torchvision and timm by name, from the cache or the internet."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gcnet.checkpoints.download import connection_failure
from gcnet.checkpoints.source import Catalog
from gcnet.checkpoints.timm import TimmCatalog
from gcnet.checkpoints.torchvision import TorchvisionCatalog
from gcnet.errors import UserError, nearest, printable
from gcnet.models.registry import BASE_MODELS, is_detector

PRETRAINED = "pretrained"
FIRST_VERSION = "IMAGENET1K_V1"
"""Name of the weights that torchvision published first for its classifiers."""
CATALOGS: Mapping[str, Catalog] = {"torchvision": TorchvisionCatalog(), "timm": TimmCatalog()}


@dataclass(frozen=True)
class PretrainedWeights:
    """Pretrained weights of one network.

    Attributes:
        library: "torchvision" or "timm".
        network: name of the network in that library.
        version: name of the weights there, such as IMAGENET1K_V2 or a1_in1k.
    """

    library: str
    network: str
    version: str

    def __str__(self) -> str:
        joint = "." if self.library == "timm" and self.version else " "
        return f"{self.library} {self.network}{joint}{self.version}".rstrip()


def find_pretrained(name: str, weights: str | Path | None, argument: str = "weights") -> PretrainedWeights | None:
    """Return the pretrained weights that an argument names; None for None and for a file.

    Args:
        name: of a base model.
        weights: "pretrained" for the library's own choice (torchvision's DEFAULT, the first tag of timm), or the name
            of one version: IMAGENET1K_V1, or a tag of timm such as a1_in1k.
        argument: name of the argument, for errors.

    Raises:
        UserError: no weights are published for this network or under this name, and no such file exists.
    """
    text = "" if weights is None else str(weights)
    if not text or (text != PRETRAINED and _is_path(text)):
        return None
    library, versions = pretrained_versions(name)
    if not versions:
        missing = "" if text == PRETRAINED else f', and there is no file "{printable(text)}"'
        raise UserError(f'no pretrained weights are published for "{name}"{missing}: give `{argument}=FILE`')
    chosen = versions[0] if text in (PRETRAINED, "DEFAULT") else text
    version = next((version for version in versions if version.lower() == chosen.lower()), None)
    if version is None:
        proposal = nearest(text, versions) or ";"
        raise UserError(
            f'`{argument}` must be a file, "pretrained", or published weights of {name}: there is no file '
            f'"{printable(text)}"{proposal} published: {", ".join(versions)}'
        )
    return PretrainedWeights(library, _plain(name), version)


def pretrained_versions(name: str) -> tuple[str, list[str]]:
    """Return the library of the base model `name` and the names of its published weights, the default first."""
    library, plain = name.rpartition("/")[0], _plain(name)
    if library == "":
        library = "timm" if _is_timm(name, plain) else "torchvision"
    if library not in CATALOGS:
        return "", []
    return library, CATALOGS[library].versions(plain, name.rpartition("/")[2].partition(".")[2])


def _is_timm(name: str, plain: str) -> bool:
    """Whether timm builds the network of this name, which it does for all but the networks of our own names."""
    return name not in BASE_MODELS and not is_detector(plain) and CATALOGS["timm"].knows(plain)


def cached_pretrained(pretrained: PretrainedWeights) -> Path | None:
    """Return the cached file of pretrained weights, None if it is not in the cache."""
    return CATALOGS[pretrained.library].cached_file(pretrained.network, pretrained.version)


def read_pretrained(
    pretrained: PretrainedWeights, argument: str, image_size: int | None = None, *, download: bool = False
) -> dict[str, Tensor]:
    """Return the pretrained tensors by the keys of their library's network, from the cache or the internet.

    Args:
        pretrained: the weights.
        argument: name of the user's argument, for errors.
        image_size: side of the images in pixels, for timm to resize position embeddings.
        download: download weights that are not in the cache.

    Raises:
        UserError: they are not in the cache, and `download` is false, or their server cannot be reached.
    """
    catalog, cached = CATALOGS[pretrained.library], cached_pretrained(pretrained)
    if cached is None and not download:
        place = catalog.cache_place(pretrained.network, pretrained.version)
        raise UserError(
            f"{pretrained} is not in the cache, {printable(place)}: add `download` to download it, or give "
            f"`{argument}=FILE`"
        )
    if cached is None:
        _require_network(catalog.server(), pretrained, argument)
    return catalog.read(pretrained.network, pretrained.version, cached, image_size)


def _plain(name: str) -> str:
    """The name without the library prefix and timm's tag."""
    return name.rpartition("/")[2].partition(".")[0]


def _is_path(text: str) -> bool:
    return os.path.exists(text) or os.sep in text or bool(Path(text).suffix)


def _require_network(host: str, pretrained: PretrainedWeights, argument: str) -> None:
    failure = connection_failure(host)
    if failure is not None:
        raise UserError(
            f"{pretrained} is not in the cache, and {host} cannot be reached ({failure}): give `{argument}=FILE`"
        ) from failure
