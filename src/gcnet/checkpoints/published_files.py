"""Published checkpoints by name: library, task, scores, parameters, URL and hash."""

import os
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlparse

from gcnet.errors import UserError, nearest, printable

_TABLE = "published_files.toml"
_BYTES = 4  # of a float32


@dataclass(frozen=True)
class PublishedFile:
    """A published checkpoint.

    Attributes:
        name: such as "mmdet/mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco"; it begins with the library.
        task: detection, segmentation, classification or video (classification of clips).
        dataset: of the scores.
        metrics: names of the scores.
        scores: as published.
        scores_from: source of the scores.
        license: of the file, as an SPDX identifier; empty if its source does not state one.
        parameters: number of parameters.
        url: of the file.
    """

    name: str
    task: str
    dataset: str
    metrics: tuple[str, ...]
    scores: tuple[str, ...]
    scores_from: str
    license: str
    parameters: int
    url: str

    @property
    def library(self) -> str:
        """The library of the file, which is its source for `gcnet.convert_checkpoint`."""
        return self.name.partition("/")[0]

    @property
    def file_name(self) -> str:
        """The name of the file in the cache."""
        return Path(urlparse(self.url).path).name

    @property
    def digest(self) -> str:
        """The first 8 hexadecimal digits of the SHA-256 of the file, which end its name."""
        return Path(self.file_name).stem[-8:]

    @property
    def smallest_size(self) -> int:
        """The size in bytes of the parameters in float32; the sizes of the files are not published."""
        return _BYTES * self.parameters


@cache
def published_files() -> tuple[PublishedFile, ...]:
    """Return all published checkpoints known, library by library."""
    table = tomllib.loads(files("gcnet.checkpoints").joinpath(_TABLE).read_text(encoding="utf-8"))
    return tuple(
        PublishedFile(
            name=f"{collection['library']}/{name}",
            task=collection["task"],
            dataset=collection["dataset"],
            metrics=tuple(collection["metrics"].split(" / ")),
            scores=tuple(scores.split(" / ")),
            scores_from=collection["scores_from"],
            license=collection["license"],
            parameters=parameters,
            url=collection["url"].format(name=name, version=version),
        )
        for collection in table["collections"]
        for name, version, parameters, scores in collection["files"]
    )


def find_published_file(name: str) -> PublishedFile:
    """Return the published checkpoint called `name`.

    Raises:
        UserError: unknown name; the message has the nearest one.
    """
    known = {file.name: file for file in published_files()}
    if name in known:
        return known[name]
    library = name.partition("/")[0]
    names = [other for other in known if other.partition("/")[0] == library] or list(known)
    listed = nearest(name, names) or "; gcnet models --published lists all"
    raise UserError(f'no published checkpoint is called "{printable(name)}"{listed}')


def nearest_published_file(text: str) -> str:
    """Return a suggestion to append to a sentence: the published checkpoint that `text` is meant for, or "".

    Args:
        text: a misspelled name, or the path or URL of a file.
    """
    by_file = {file.file_name: file.name for file in published_files()}
    last = Path(text).name
    name = Path(text).with_suffix("") if _is_file_name(last) else text
    return nearest(by_file.get(last, str(name)), by_file.values())


def cache_folder() -> Path:
    """Return the folder of downloaded checkpoints: `GCNET_CACHE`, or that of torch.hub, which mmdet and timm use."""
    folder = os.environ.get("GCNET_CACHE")
    if folder:
        return Path(folder)
    import torch

    return Path(torch.hub.get_dir(), "checkpoints")


def cached_path(file: PublishedFile) -> Path:
    """Return the path of `file` in the cache, whether it is there or not."""
    return cache_folder() / file.file_name


def names_published_file(text: str) -> bool:
    """Whether `text` has the form of a name of a published checkpoint, LIBRARY/NAME, and is no existing path."""
    library, slash, name = text.partition("/")
    libraries = {file.library for file in published_files()}
    return bool(slash and name) and library in libraries and not os.path.exists(text) and not _is_file_name(name)


def is_published_checkpoint(model: str) -> bool:
    """Whether `model` has the form of a published checkpoint; other names with timm/ are networks of timm."""
    known = any(file.name == model for file in published_files())
    return names_published_file(model) and (known or not model.startswith("timm/"))


def _is_file_name(name: str) -> bool:
    return Path(name).suffix in (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
