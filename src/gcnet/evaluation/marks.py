"""Objects and detections marked on an image: masks, if any, tinted, boxes framed, and what they are written above."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from gcnet.data.coco.images import Entry
from gcnet.data.coco.masks import segmentation_mask
from gcnet.evaluation.fonts import legible, picture_font
from gcnet.evaluation.labels import Box, first_free, label_places
from gcnet.evaluation.matching import Verdict

# Okabe & Ito's sky blue and vermillion, bright enough to be seen on photographs.
_COLOURS = {"right": (86, 180, 233), "wrong": (240, 100, 10), "crowd": (170, 170, 170)}
_ORDER = ("crowd", "right", "wrong")  # what is drawn later lies on top
_TEXT, _LINE = 11, 14  # pixels of letters, and of a line of them


@dataclass(frozen=True)
class Mark:
    """An annotation or a result (without issues), how it counts, and its text."""

    entry: Entry
    kind: Verdict
    text: str


def fit(image: Image.Image, side: int) -> Image.Image:
    """The image (RGB), its longer side shrunk to `side` pixels or enlarged by the largest whole factor that fits."""
    factor = side / max(image.size)
    if factor >= 1:
        return image.resize((image.width * int(factor), image.height * int(factor)), Image.Resampling.NEAREST)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS)


def draw_marks(image: Image.Image, marks: Sequence[Mark], size: tuple[int, int]) -> Image.Image:
    """The image (RGB, of any size) with marks, whose coordinates are those of an image of `size` (height, width)."""
    ordered = sorted(marks, key=lambda mark: _ORDER.index(mark.kind))
    pixels = np.array(image, dtype=np.float32)  # (H, W, 3)
    for mark in ordered:
        if not mark.entry.get("segmentation"):
            continue
        area = _resized(segmentation_mask(mark.entry["segmentation"], *size), image.size)
        pixels[area] = 0.6 * pixels[area] + 0.4 * np.array(_COLOURS[mark.kind])
    drawn = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(drawn)
    scales = image.width / size[1], image.height / size[0]
    corners = [_corners(mark, scales) for mark in ordered]
    for mark, (left, top, right, bottom) in zip(ordered, corners, strict=True):
        draw.rectangle((left, top, max(right, left), max(bottom, top)), outline=_COLOURS[mark.kind], width=2)
    _write(draw, ordered, corners, image.size)
    return drawn


def _corners(mark: Mark, scales: tuple[float, float]) -> Box:
    left, top, width, height = mark.entry["bbox"]
    across, down = scales
    return left * across, top * down, (left + width) * across - 1, (top + height) * down - 1


def _resized(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), dtype=bool)


def _write(draw: ImageDraw.ImageDraw, marks: Sequence[Mark], corners: Sequence[Box], size: tuple[int, int]) -> None:
    """Each text on a patch of its mark's colour, above, in or below the box; where no place is free, not at all."""
    taken: list[Box] = []
    for mark, box in reversed(list(zip(marks, corners, strict=True))):
        text = legible(mark.text)
        font = picture_font(_TEXT, text)
        width = draw.textlength(text, font=font) + 4
        place = first_free(label_places(box, (width, _LINE), size), taken)
        if place is not None:
            taken.append(place)
            draw.rectangle(place, fill=_COLOURS[mark.kind])
            draw.text((place[0] + 2, place[1]), text, fill="black", font=font)
