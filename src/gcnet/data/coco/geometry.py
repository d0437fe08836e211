"""Boxes and segmentations of COCO annotations: their faults, and what is left of them when these are mended."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gcnet.data.coco.masks import extent

# Told of the kind of a fault (of `faults.KINDS`) and of what was found.
Say = Callable[[str, str], None]

_HUGE = 1e300

ROUNDING = 0.5
"""Pixels by which a coordinate may lie beyond the edge without being a fault."""


def check_box(box: Any, height: int, width: int, say: Say) -> list[float] | None:
    """The box (left, top, width, height in pixels) within an image of this size; None where it cannot be kept."""
    if not _is_numbers(box) or len(box) != 4:
        return say("box not of four numbers", f"bbox {_short(box)}")
    if not _is_finite(box):
        return say("box not finite", f"bbox {_short(box)}")
    left, top, across, down = box
    if across <= 0 or down <= 0:
        return say("box without area", f"bbox {_short(box)}")
    place = f"bbox {_short(box)} in {width} x {height} pixels"
    if left >= width or top >= height or left + across <= 0 or top + down <= 0:
        return say("box outside the image", place)
    beyond = max(-left, -top, left + across - width, top + down - height)
    if beyond <= ROUNDING:
        return box
    say("box over the edge", place)
    kept = max(left, 0), max(top, 0), min(left + across, width), min(top + down, height)
    return [kept[0], kept[1], kept[2] - kept[0], kept[3] - kept[1]]


def check_segmentation(
    segmentation: Any, is_crowd: bool, height: int, width: int, say: Say
) -> tuple[Any, int, list[float]] | None:
    """The segmentation, mended, with the pixels and the box of its mask; None where it cannot be kept."""
    drawn = segmentation
    if isinstance(segmentation, dict):
        if segmentation.get("size") != [height, width]:
            found = f"size {_short(segmentation.get('size'))} in an image of {[height, width]}"
            return say("run lengths of another size", found)
    elif is_crowd:
        return say("crowd without run lengths", f"segmentation {_short(segmentation)}")
    elif _is_polygons(segmentation):
        segmentation = _checked_polygons(segmentation, height, width, say)
        if not segmentation:
            return None
        drawn = _within(segmentation, height, width)
    else:
        return say("segmentation of no known form", f"segmentation {_short(segmentation)}")
    try:
        pixels, box = extent(drawn, height, width)
    except ValueError as error:
        return say("broken run lengths", str(error))
    return (segmentation, pixels, box) if pixels else say("empty mask", "a segmentation without a pixel")


def is_apart(box: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes (left, top, width, height) have no point in common."""
    left, top, across, down = other
    return box[0] >= left + across or box[1] >= top + down or box[0] + box[2] <= left or box[1] + box[3] <= top


def _checked_polygons(polygons: Sequence[Sequence[float]], height: int, width: int, say: Say) -> list[Any]:
    """The polygons that can be kept, their points within the image."""
    kept = []
    for polygon in polygons:
        if len(polygon) % 2:
            say("odd number of polygon coordinates", f"{len(polygon)} coordinates")
        elif len(polygon) < 6:
            say("polygon of fewer than three points", f"{len(polygon) // 2} points")
        elif not _is_finite(polygon):
            say("polygon not finite", f"polygon {_short(polygon)}")
        else:
            kept.append(polygon)
    limits = np.array([width, height])
    for number, polygon in enumerate(kept):
        points = np.reshape(np.asarray(polygon, dtype=float), (-1, 2))
        beyond = float(np.maximum(-points, points - limits).max())
        if beyond > ROUNDING:
            say("polygon over the edge", f"a point lies {beyond:,.1f} pixels beyond {width} x {height}")
            kept[number] = _within([polygon], height, width)[0]
    return kept


def _within(polygons: Sequence[Sequence[float]], height: int, width: int) -> list[list[float]]:
    """The polygons with every point moved into the image."""
    limits = np.array([width, height])
    return [np.clip(np.reshape(polygon, (-1, 2)), 0, limits).ravel().tolist() for polygon in polygons]


def _is_polygons(segmentation: Any) -> bool:
    return isinstance(segmentation, list) and bool(segmentation) and all(map(_is_numbers, segmentation))


def _is_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )


def _is_finite(values: Sequence[float]) -> bool:
    """Whether no value is NaN, infinite or, as JSON's whole numbers may be, beyond what floating point holds."""
    return all(abs(value) < _HUGE for value in values)


def _short(value: Any) -> str:
    """A value as it stands in the file, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
