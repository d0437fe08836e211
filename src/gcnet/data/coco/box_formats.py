"""Recognition of box and polygon formats: xyxy, center and size, fractions."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

_NEEDED = 3  # minimum number of objects, to exclude chance
_SMALLEST = 8  # minimum side in pixels; in smaller images, polygons within one pixel are plausible


def are_fractions(segmentations: Iterable[tuple[Any, int, int]]) -> bool:
    """Return whether all polygons of a file are within the first pixel of their images, hence fractions.

    Args:
        segmentations: (segmentation, height, width) of each object, sizes of the image in pixels; anything but polygons
            is ignored.
    """
    polygons = 0
    for segmentation, height, width in segmentations:
        values = _polygon_values(segmentation, height, width)
        if not _all_fractions(values):
            return False
        polygons += bool(values)
    return polygons >= _NEEDED


def any_in_pixels(segmentations: Iterable[tuple[Any, int, int]]) -> bool:
    """Return whether a polygon is not within the first pixel of its image.

    Args:
        segmentations: as of `are_fractions`, which is false for a file with such a polygon.
    """
    return any(not _all_fractions(_polygon_values(*segmentation)) for segmentation in segmentations)


def to_pixels(segmentation: Any, height: int, width: int) -> Any:
    """Convert polygons from fractions of width and height to pixels.

    Args:
        segmentation: A polygon or a list of polygons; anything else is returned unchanged.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        Polygons in pixels.
    """
    if not _coordinates(segmentation):
        return segmentation
    if not isinstance(segmentation[0], list):
        return _scaled(segmentation, height, width)
    return [_scaled(polygon, height, width) for polygon in segmentation]


def _polygon_values(segmentation: Any, height: int, width: int) -> list[float]:
    """Return the coordinates of polygons that tell fractions from pixels; empty for anything else."""
    return _coordinates(segmentation) if min(height, width) >= _SMALLEST else []


def _all_fractions(values: list[float]) -> bool:
    return all(0 <= value <= 1 for value in values)


def _scaled(polygon: list[float], height: int, width: int) -> list[float]:
    return [value * (width, height)[place % 2] for place, value in enumerate(polygon)]


def _coordinates(segmentation: Any) -> list[float]:
    """Return all coordinates of polygons; empty for anything else."""
    if not isinstance(segmentation, list):
        return []
    parts = segmentation if all(isinstance(part, list) for part in segmentation) else [segmentation]
    values = [value for part in parts for value in part]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return values if numbers else []


Boxes = Float[np.ndarray, "n 4"]
Sizes = Float[np.ndarray, "n 2"]  # width and height of each box's image, in pixels

XYWH = "left, top, width, height"

_MASKS_NEEDED, _BOXES_NEEDED = 3, 5  # minimum number of objects, to exclude chance
_FITS, _BETTER = 0.8, 0.15  # minimum mean IoU with the masks, and minimum gain over COCO's format
_BEYOND = 0.25  # minimum fraction of boxes beyond the image in COCO's format
_TOLERANCE = 0.5  # pixels
_MOST = 0.95  # fraction of boxes that must be inside their images; a few may be wrong


def _from_corners(boxes: Boxes) -> Boxes:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _from_centers(boxes: Boxes) -> Boxes:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


BOX_FORMATS: Mapping[str, Callable[[Boxes], Boxes]] = {
    XYWH: lambda boxes: boxes,
    "left, top, right, bottom (xyxy)": _from_corners,
    "center x, center y, width, height (cxcywh)": _from_centers,
}


@dataclass(frozen=True)
class BoxFormat:
    """Format of the boxes of a file.

    Attributes:
        names: Matching formats, keys of `BOX_FORMATS`; several if the boxes are ambiguous.
        is_normalized: Whether coordinates are fractions of width and height.
    """

    names: tuple[str, ...]
    is_normalized: bool

    def __str__(self) -> str:
        name = " or ".join(self.names)
        return f"{name}, normalized to 0..1" if self.is_normalized else f"{name}"

    @property
    def is_coco(self) -> bool:
        """Whether this is COCO's format."""
        return self.names == (XYWH,) and not self.is_normalized

    @property
    def is_certain(self) -> bool:
        """Whether the format is unambiguous, so that boxes can be converted."""
        return len(self.names) == 1

    def convert(self, boxes: Boxes, sizes: Sizes) -> Boxes:
        """Convert boxes to left, top, width, height in pixels.

        Args:
            boxes: Boxes in this format, (N, 4).
            sizes: Width and height of each image in pixels, (N, 2).

        Returns:
            Converted boxes, (N, 4).
        """
        scaled = boxes * np.tile(sizes, 2) if self.is_normalized else boxes
        return BOX_FORMATS[self.names[0]](scaled)


COCO = BoxFormat((XYWH,), is_normalized=False)


def recognize_format(boxes: Boxes, sizes: Sizes, mask_boxes: Boxes) -> BoxFormat:
    """Recognize the format of the boxes of a file.

    Args:
        boxes: Finite boxes as written in the file, (N, 4).
        sizes: Width and height of each image in pixels, (N, 2).
        mask_boxes: Boxes of the masks (left, top, width, height), (N, 4); NaN without a mask.

    Returns:
        COCO's format unless another one fits clearly better.
    """
    with_mask = ~np.isnan(mask_boxes[:, 0])
    if with_mask.sum() >= _MASKS_NEEDED:
        return _by_masks(boxes[with_mask], sizes[with_mask], mask_boxes[with_mask])
    if len(boxes) >= _BOXES_NEEDED:
        return _by_edges(boxes, sizes)
    return COCO


def _by_masks(boxes: Boxes, sizes: Sizes, mask_boxes: Boxes) -> BoxFormat:
    """Return the format whose boxes overlap the boxes of the masks."""
    formats = [BoxFormat((name,), is_normalized) for is_normalized in (False, True) for name in BOX_FORMATS]
    overlaps = [
        float(_overlaps(_clipped(box_format.convert(boxes, sizes), sizes), mask_boxes).mean()) for box_format in formats
    ]
    best = int(np.argmax(overlaps))
    is_better = overlaps[best] >= _FITS and overlaps[best] >= overlaps[0] + _BETTER
    return formats[best] if is_better else COCO


def _by_edges(boxes: Boxes, sizes: Sizes) -> BoxFormat:
    """Return the formats with boxes inside the images, if COCO's boxes are not."""
    is_normalized = bool((np.abs(boxes) <= 1 + _TOLERANCE).all() and (sizes >= 8).all())
    candidates = {name: BoxFormat((name,), is_normalized) for name in BOX_FORMATS}
    shares = {
        name: _are_inside(box_format.convert(boxes, sizes), sizes).mean() for name, box_format in candidates.items()
    }
    fitting = [name for name, share in shares.items() if share >= _MOST]
    if is_normalized:
        return BoxFormat(tuple(fitting or BOX_FORMATS), is_normalized=True)
    is_beyond = (boxes[:, :2] + boxes[:, 2:] > sizes + _TOLERANCE).any(axis=1)
    if not fitting or is_beyond.mean() < _BEYOND:
        return COCO
    # Ordered corners are far less likely by chance than centers within the image.
    corners, centers = list(BOX_FORMATS)[1:]
    if corners in fitting:
        return candidates[corners]
    return candidates[centers] if centers in fitting and len(boxes) >= 2 * _BOXES_NEEDED else COCO


def _overlaps(first: Boxes, second: Boxes) -> Float[np.ndarray, " n"]:
    """Return the IoU of the boxes in each row; 0 for a box without area."""
    starts = np.maximum(first[:, :2], second[:, :2])
    ends = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    shared = np.clip(ends - starts, 0, None).prod(axis=1)
    areas = [np.clip(boxes[:, 2:], 0, None).prod(axis=1) for boxes in (first, second)]
    union = areas[0] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def _clipped(boxes: Boxes, sizes: Sizes) -> Boxes:
    """Clip each box to its image."""
    starts = np.clip(boxes[:, :2], 0, sizes)
    ends = np.clip(boxes[:, :2] + boxes[:, 2:], 0, sizes)
    return np.concatenate([starts, ends - starts], axis=1)


def _are_inside(boxes: Boxes, sizes: Sizes) -> Bool[np.ndarray, " n"]:
    ends = boxes[:, :2] + boxes[:, 2:]
    is_inside = (boxes[:, :2] >= -_TOLERANCE) & (ends <= sizes + _TOLERANCE) & (boxes[:, 2:] > 0)
    return np.asarray(is_inside.all(axis=1))
