"""Polygons in fractions of the image's sides, from 0 to 1, as converted YOLO labels have them."""

from collections.abc import Iterable
from typing import Any

_NEEDED = 3  # objects, fewer of which may lie within one pixel by chance
_SMALLEST = 8  # pixels of an image's side, below which a polygon within one pixel is plausible


def are_fractions(segmentations: Iterable[tuple[Any, int, int]]) -> bool:
    """Whether all polygons of a file lie within the first pixel of their images, so that they must be fractions.

    Args:
        segmentations: each with the height and the width of its image in pixels; what is no polygon does not count.
    """
    sized = ((_coordinates(one), min(height, width)) for one, height, width in segmentations)
    found = [values for values, side in sized if values and side >= _SMALLEST]
    return len(found) >= _NEEDED and all(0 <= value <= 1 for values in found for value in values)


def to_pixels(segmentation: Any, height: int, width: int) -> Any:
    """Polygons, or one, with their fractions of the width and height as pixels; anything else as it is."""
    if not _coordinates(segmentation):
        return segmentation
    if not isinstance(segmentation[0], list):
        return _scaled(segmentation, height, width)
    return [_scaled(polygon, height, width) for polygon in segmentation]


def _scaled(polygon: list[float], height: int, width: int) -> list[float]:
    return [value * (width, height)[place % 2] for place, value in enumerate(polygon)]


def _coordinates(segmentation: Any) -> list[float]:
    """All coordinates of polygons; none of what is no polygon."""
    if not isinstance(segmentation, list):
        return []
    parts = segmentation if all(isinstance(part, list) for part in segmentation) else [segmentation]
    values = [value for part in parts for value in part]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return values if numbers else []
