"""Objects drawn on images: masks, boxes and labels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from gcnet.data.coco.masks import segmentation_mask
from gcnet.visualization.fonts import picture_font, picture_text

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
Labels = Literal["auto", "on", "off"]
Corners = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

CROWDED = 30
"""With more objects than this an image has neither labels, by default, nor frames around objects with masks."""
OPACITY = 0.4
_STROKE = 2  # pixels of the dark outline of letters
_LETTERS = 13  # pixels, at least
# Saturated colors for neighboring instances, visible on photographs; neighbors in this order differ most.
_INSTANCE_COLORS: tuple[Color, ...] = (
    (255, 127, 14),
    (0, 163, 255),
    (0, 200, 83),
    (255, 64, 129),
    (255, 214, 0),
    (124, 77, 255),
    (0, 229, 255),
    (244, 67, 54),
    (174, 234, 0),
    (213, 0, 249),
    (29, 233, 182),
    (141, 110, 99),
)


@dataclass(frozen=True)
class Overlay:
    """An object to draw.

    Attributes:
        entry: COCO annotation or result with `bbox` (left, top, width, height in pixels) and, if it has a mask,
            `segmentation`.
        color: of mask, frame and contour.
        text: label, such as class and score; empty for none.
    """

    entry: Mapping[str, Any]
    color: Color
    text: str = ""


def instance_color(index: int) -> Color:
    """Return the color of the object with this index in its image; neighboring indices have different colors."""
    return _INSTANCE_COLORS[index % len(_INSTANCE_COLORS)]


def draw_overlays(
    image: Image.Image, overlays: Sequence[Overlay], size: tuple[int, int], *, labels: Labels = "auto"
) -> Image.Image:
    """Draw objects on an image: masks tinted and outlined, boxes framed, labels next to them.

    Args:
        image: RGB, of any size.
        overlays: the most important first, which is drawn on top.
        size: height and width of the image in the objects' coordinates.
        labels: "auto" skips labels that would cover another label, and all of them in images of more than `CROWDED`
            objects; "on" draws all, "off" none.

    Returns:
        A new image of the size of `image`.
    """
    if not overlays:
        return image.copy()
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, H, W)
    owners = _owners(overlays, size, image.size)
    pixels = _draw_masks(pixels, owners, [overlay.color for overlay in overlays])
    corners = [_corners(overlay, size, image.size) for overlay in overlays]
    is_crowded = len(overlays) > CROWDED
    framed = [i for i, one in enumerate(overlays) if not (is_crowded and one.entry.get("segmentation"))]
    if framed:
        order = framed[::-1]  # the first lies on top
        boxes = torch.tensor([corners[index] for index in order]).round()
        colors: list[str | Color] = [overlays[index].color for index in order]
        pixels = draw_bounding_boxes(pixels, boxes, colors=colors, width=max(1, round(max(image.size) / 640)))
    drawn = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    if labels == "on" or (labels == "auto" and not is_crowded):
        _write_labels(drawn, overlays, corners, keep_all=labels == "on")
    return drawn


def _owners(overlays: Sequence[Overlay], size: tuple[int, int], shown: tuple[int, int]) -> Int[np.ndarray, "h w"]:
    """The overlay whose mask is on top at each pixel of the image, counted from 1; 0 for none.

    Args:
        overlays: the first lies on top.
        size: height and width of their coordinates.
        shown: width and height of the image.
    """
    owners = np.zeros((shown[1], shown[0]), dtype=np.int32)
    # The column and the row of the original pixel at the center of each pixel of the image.
    columns, rows = ((np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip(shown, size[::-1], strict=True))
    for number, overlay in reversed(list(enumerate(overlays, start=1))):
        if overlay.entry.get("segmentation"):
            owners[segmentation_mask(overlay.entry["segmentation"], *size)[rows[:, None], columns]] = number
    return owners


def _draw_masks(
    pixels: UInt8[Tensor, "3 h w"], owners: Int[np.ndarray, "h w"], colors: Sequence[Color]
) -> UInt8[Tensor, "3 h w"]:
    """Tint the pixels of each mask and draw its contour; masks of one color are drawn together."""
    edges = torch.from_numpy(_edges(owners))
    for color in dict.fromkeys(colors):
        numbers = [number for number, other in enumerate(colors, start=1) if other == color]
        mask = torch.from_numpy(np.isin(owners, numbers))
        pixels = draw_segmentation_masks(pixels, mask, alpha=OPACITY, colors=color)
        pixels[:, mask & edges] = torch.tensor(color, dtype=torch.uint8)[:, None]
    return pixels


def _edges(owners: Int[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels next to those of another object."""
    edges = np.zeros(owners.shape, dtype=bool)
    for axis in (0, 1):
        differs = np.diff(owners, axis=axis) != 0
        before, after = (slice(None, -1), slice(1, None))
        edges[(before,) if axis == 0 else (slice(None), before)] |= differs
        edges[(after,) if axis == 0 else (slice(None), after)] |= differs
    return edges & (owners > 0)


def _corners(overlay: Overlay, size: tuple[int, int], shown: tuple[int, int]) -> Corners:
    left, top, width, height = overlay.entry["bbox"]
    across, down = shown[0] / size[1], shown[1] / size[0]
    right, bottom = max((left + width) * across - 1, left * across), max((top + height) * down - 1, top * down)
    return left * across, top * down, right, bottom


def _write_labels(
    image: Image.Image, overlays: Sequence[Overlay], corners: Sequence[Corners], *, keep_all: bool
) -> None:
    """Write each label above, in or below its box, where no earlier label is."""
    draw, taken, written = ImageDraw.Draw(image), [], []
    letters = max(_LETTERS, round(max(image.size) / 90))
    for overlay, box in zip(overlays, corners, strict=True):
        text = picture_text(overlay.text)
        if not text:
            continue
        font = picture_font(letters, text)
        size = font.getlength(text) + 2 * _STROKE, sum(font.getmetrics())
        possible = label_places(box, size, image.size)
        place = first_free(possible, taken) or (possible[0] if keep_all else None)
        if place is not None:
            taken.append(place)
            written.append((place, text, font))
    for (left, top, _, _), text, font in reversed(written):
        draw.text((left + _STROKE, top), text, fill="white", font=font, stroke_width=_STROKE, stroke_fill="black")


def label_places(box: Corners, size: tuple[float, float], image: tuple[int, int]) -> list[Corners]:
    """Return the candidate positions of a label: above its box, in it at the top or the bottom, and below it.

    Args:
        box: of the object.
        size: width and height of the label.
        image: width and height of the image, which contains the candidates where they fit.
    """
    (left, top, _, bottom), (width, height) = box, size
    x = min(max(left, 0), max(image[0] - width, 0))
    tops = [min(max(y, 0), max(image[1] - height, 0)) for y in (top - height, top, bottom - height, bottom)]
    return [(x, y, x + width, y + height) for y in tops]


def first_free(places: Iterable[Corners], taken: Sequence[Corners]) -> Corners | None:
    """Return the first free place, or None.

    Args:
        places: candidates.
        taken: occupied areas that it must not overlap.
    """
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), None)


def _overlap(one: Corners, other: Corners) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
