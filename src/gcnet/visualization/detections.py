"""Detections as overlays on their images, and the names of the pictures."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from gcnet.visualization.overlays import Labels, Overlay, draw_overlays, instance_color

_SMALLEST, _LARGEST = 960, 2048  # pixels of the longer side: smaller images are enlarged, larger ones shrunk
_SUFFIX = "-detections"
_STEM_BYTES = 150  # file systems take names of 255


def draw_detections(
    image: Image.Image, results: Sequence[Mapping[str, Any]], names: Mapping[int, str], *, labels: Labels = "auto"
) -> Image.Image:
    """Draw detections on their image, each object in a color of its own.

    Images of less than 960 pixels are enlarged by the smallest whole factor that reaches them, those of more than 2048
    are shrunk.

    Args:
        image: RGB, EXIF orientation applied.
        results: in COCO's result format, the best first; coordinates in pixels of the image.
        names: class name of each category id.
        labels: when to write class and score beside objects; see `gcnet.visualization.overlays.draw_overlays`.

    Returns:
        The annotated image, RGB.
    """
    overlays = [
        Overlay(result, instance_color(index), f"{names[result['category_id']]} {result['score']:.2f}")
        for index, result in enumerate(results)
    ]
    return draw_overlays(_resized(image), overlays, (image.height, image.width), labels=labels)


def picture_names(paths: Sequence[Path], folder: Path) -> dict[Path, str]:
    """Choose a file name for the picture of each image: unique, and not the name of any of the images.

    A name is the path below the common folder of all images, with an underscore for anything other than letters,
    digits, dots and hyphens. Equal names, also without regard to case, are numbered.

    Args:
        paths: of the images, each once.
        folder: of the pictures.

    Returns:
        The file name of each image's picture.
    """
    parents = [os.path.abspath(path.parent) for path in paths]
    shared = os.path.commonpath(parents) if parents else ""
    place = os.path.realpath(folder)
    taken = {_key(file.name) for path in paths for file in _locations(path) if str(file.parent) == place}
    names: dict[Path, str] = {}
    for path in paths:
        stem = _safe(os.path.relpath(os.path.abspath(path.with_suffix("")), shared)) + _SUFFIX
        name, number = f"{stem}.jpg", 2
        while _key(name) in taken:
            name, number = f"{stem}-{number}.jpg", number + 1
        taken.add(_key(name))
        names[path] = name
    return names


def _locations(path: Path) -> tuple[Path, Path]:
    """The real location of a file, and of its target if it is a link."""
    return Path(os.path.realpath(path.parent), path.name), Path(os.path.realpath(path))


def _key(name: str) -> str:
    return name.casefold()


def _safe(name: str) -> str:
    text = re.sub(r"[^\w.-]+", "_", name).encode(errors="replace")[-_STEM_BYTES:].decode(errors="ignore")
    return text.lstrip(".-") or "image"


def _resized(image: Image.Image) -> Image.Image:
    longest = max(image.size)
    if longest < _SMALLEST:
        factor = -(-_SMALLEST // longest)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if longest <= _LARGEST:
        return image
    size = (max(1, round(image.width * _LARGEST / longest)), max(1, round(image.height * _LARGEST / longest)))
    return image.resize(size, Image.Resampling.LANCZOS)
