"""Detections drawn on images: masks, boxes, class names and scores."""

import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw, ImageFont

from gcnet.data.coco.masks import segmentation_mask
from gcnet.errors import printable
from gcnet.visualization.annotations import category_colour
from gcnet.visualization.fonts import Box, first_free, label_places, legible, picture_font

_SMALLEST, _LARGEST = 960, 2048
"""Pixels of a picture's longer side: from the one on it is not enlarged, beyond the other shrunk."""
_NAME_LENGTH = 40
_SUFFIX = "-detections"
_STEM_BYTES = 150  # file systems take names of 255


def draw_detections(image: Image.Image, results: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> Image.Image:
    """The image (RGB) with results of COCO's format (without issues), a colour for each category.

    Images of less than 960 pixels are enlarged by the least whole factor that reaches them, those of more than 2048
    shrunk; a side that is too short for a class name and its score gets a white margin.

    Args:
        image: upright.
        results: the best first; their coordinates are those of the image.
        names: of each category.
    """
    picture = _fitted(image)
    scale = picture.width / image.width, picture.height / image.height
    texts = [f"{_shortened(names[result['category_id']])} {result['score']:.2f}" for result in results]
    fonts = [picture_font(max(13, round(max(picture.size) / 90)), text) for text in texts]
    sizes = [_text_size(text, font) for text, font in zip(texts, fonts, strict=True)]
    sheet, corner = _with_margins(_tinted(picture, image.size, results), sizes)
    colours = [category_colour(result["category_id"]) for result in results]
    boxes = [_corners(result["bbox"], scale, corner) for result in results]
    places = _places(boxes, sizes, sheet.size)
    draw = ImageDraw.Draw(sheet)
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):  # the best lie on top
        draw.rectangle(box, outline=colour, width=max(2, round(max(picture.size) / 400)))
    for place, text, font, colour in reversed(list(zip(places, texts, fonts, colours, strict=True))):
        draw.rectangle(place, fill=colour)
        draw.text((place[0] + 3, place[1] + 1), text, fill=_ink(colour), font=font)
    return sheet


def encode_picture(picture: Image.Image) -> bytes:
    """The picture as JPEG."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90, subsampling=0)
    return stream.getvalue()


def picture_names(paths: Sequence[Path], folder: Path) -> dict[Path, str]:
    """A file name for the picture of each image: all different, and none that of an image itself.

    A name is made of the path below the folder that all images share, with what is no letter, digit, point or hyphen
    as an underscore. Names that would be the same, also without regard to case, are numbered.

    Args:
        paths: of the images, each once.
        folder: where the pictures will be.
    """
    parents = [os.path.abspath(path.parent) for path in paths]
    shared = os.path.commonpath(parents) if parents else ""
    place = os.path.realpath(folder)
    taken = {_key(one.name) for path in paths for one in _places_of(path) if str(one.parent) == place}
    names: dict[Path, str] = {}
    for path in paths:
        stem = _safe(os.path.relpath(os.path.abspath(path.with_suffix("")), shared)) + _SUFFIX
        name, number = f"{stem}.jpg", 2
        while _key(name) in taken:
            name, number = f"{stem}-{number}.jpg", number + 1
        taken.add(_key(name))
        names[path] = name
    return names


def _places_of(path: Path) -> tuple[Path, Path]:
    """Where a file is, and where it leads to if it is a link, without links on the way there."""
    return Path(os.path.realpath(path.parent), path.name), Path(os.path.realpath(path))


def _key(name: str) -> str:
    return name.casefold()


def _safe(name: str) -> str:
    text = re.sub(r"[^\w.-]+", "_", name).encode(errors="replace")[-_STEM_BYTES:].decode(errors="ignore")
    return text.lstrip(".-") or "image"


def _fitted(image: Image.Image) -> Image.Image:
    long = max(image.size)
    if long < _SMALLEST:
        factor = -(-_SMALLEST // long)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if long <= _LARGEST:
        return image
    size = (max(1, round(image.width * _LARGEST / long)), max(1, round(image.height * _LARGEST / long)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _tinted(picture: Image.Image, size: tuple[int, int], results: Sequence[Mapping[str, Any]]) -> Image.Image:
    """The picture with the masks of results in an image of `size` (width, height), the best on top."""
    values = np.array(picture)  # (H, W, 3) uint8
    # Of each pixel of the picture, the row and the column of the image's pixel at its centre.
    columns, rows = ((np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip(picture.size, size, strict=True))
    for result in reversed(results):
        if result.get("segmentation"):
            area = segmentation_mask(result["segmentation"], size[1], size[0])[rows[:, None], columns]
            colour = np.array(category_colour(result["category_id"]))
            values[area] = (0.55 * values[area] + 0.45 * colour).astype(np.uint8)
            values[_edge(area)] = colour
    return Image.fromarray(values)


def _edge(area: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The pixels of an area beside which one is not in it."""
    inside = area.copy()
    for neighbours, there in ((area[1:], inside[:-1]), (area[:-1], inside[1:])):
        there &= neighbours
    for neighbours, there in ((area[:, 1:], inside[:, :-1]), (area[:, :-1], inside[:, 1:])):
        there &= neighbours
    return area & ~inside


def _with_margins(picture: Image.Image, texts: Sequence[tuple[float, float]]) -> tuple[Image.Image, tuple[int, int]]:
    """The picture amid a sheet on which there is room for three of the texts, and where it lies on it."""
    width = max([picture.width, *(math.ceil(width) + 1 for width, _ in texts)])
    height = max([picture.height, *(3 * math.ceil(height) for _, height in texts)])
    corner = (width - picture.width) // 2, (height - picture.height) // 2
    sheet = Image.new("RGB", (width, height), "white")
    sheet.paste(picture, corner)
    return sheet, corner


def _corners(box: Sequence[float], scale: tuple[float, float], corner: tuple[int, int]) -> Box:
    """Left, top, right and bottom pixel of a box (left, top, width, height) on the sheet."""
    left, top = box[0] * scale[0] + corner[0], box[1] * scale[1] + corner[1]
    return left, top, left + max(box[2] * scale[0] - 1, 0), top + max(box[3] * scale[1] - 1, 0)


def _places(boxes: Sequence[Box], sizes: Sequence[tuple[float, float]], sheet: tuple[int, int]) -> list[Box]:
    """Where each text goes: above its box, else inside or below, the first place that no text before it takes."""
    places: list[Box] = []
    for box, size in zip(boxes, sizes, strict=True):
        possible = label_places(box, size, sheet)
        places.append(first_free(possible, places) or possible[0])
    return places


def _text_size(text: str, font: ImageFont.FreeTypeFont) -> tuple[float, float]:
    """Width and height of a text on its patch."""
    return font.getlength(text) + 6, sum(font.getmetrics()) + 2


def _shortened(name: str) -> str:
    text = legible(printable(name))
    return text if len(text) <= _NAME_LENGTH else text[: _NAME_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _ink(colour: tuple[int, int, int]) -> str:
    """Black on bright colours, white on dark ones (luma of ITU-R BT.601)."""
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "white"
