"""Validation of boxes and segmentations of COCO annotations, also in nonstandard forms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gcnet.data.coco.masks import can_draw, extent, mask_box
from gcnet.data.coco.values import as_number, bytes_in_text, integers, is_number, short_repr, without_text


def as_polygons(segmentation: Any) -> tuple[list[list[float]] | None, str]:
    """Convert a segmentation to a list of polygons.

    Args:
        segmentation: Segmentation of an annotation, also nested differently.

    Returns:
        Polygons, each x0, y0, x1, y1, ..., or None; and the nonstandard nesting, or "".
    """
    if not isinstance(segmentation, list) or not segmentation:
        return None, ""
    if _are_numbers(segmentation):
        return [segmentation], "a polygon without an outer list"
    if _are_points(segmentation):
        return [_joined(segmentation)], "a list of points"
    if all(map(_are_numbers, segmentation)):
        return segmentation, ""
    if all(map(_are_points, segmentation)):
        return [_joined(points) for points in segmentation], "polygons as lists of points"
    inner = segmentation[0]
    if len(segmentation) == 1 and isinstance(inner, list):
        if all(map(_are_numbers, inner)):
            return inner, "nested lists of polygons"
        if all(map(_are_points, inner)):
            return [_joined(points) for points in inner], "nested lists of polygons as points"
    return None, ""


_NUMBERS = frozenset((int, float))


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and (_NUMBERS.issuperset(map(type, values)) or all(map(is_number, values)))


def _are_points(values: Any) -> bool:
    """Return whether values are a list of at least three points (x, y)."""
    return (
        isinstance(values, list)
        and len(values) >= 3
        and all(_are_numbers(point) and len(point) == 2 for point in values)
    )


def _joined(points: list[list[float]]) -> list[float]:
    return [value for point in points for value in point]


# Called with the kind of an issue, a key of `ISSUE_KINDS`, and the value in the file.
Report = Callable[[str, str], None]

_HUGE = 1e300


@dataclass(frozen=True)
class Segmentation:
    """A valid segmentation.

    Attributes:
        value: Polygons or run lengths.
        size: Height and width of the image in pixels.
        box: Left, top, width and height of the mask; None for an empty mask.
    """

    value: Any
    size: tuple[int, int]
    box: list[float] | None

    @property
    def pixels(self) -> int:
        """Number of pixels of the mask."""
        return extent(self.value, *self.size)[0] if self.box else 0


def read_box(box: Any, report: Report) -> list[float] | None:
    """Read a box of four finite numbers.

    Args:
        box: Value of "bbox" in the file.
        report: Called if numbers are written as text, which are converted.

    Returns:
        The box, or None if it is invalid.
    """
    if not isinstance(box, list) or len(box) != 4:
        return None
    if _NUMBERS.issuperset(map(type, box)) and all(abs(value) < _HUGE for value in box):
        return box
    values = [as_number(value) for value in box]
    if not all(value is not None and abs(value) < _HUGE for value in values):
        return None
    if any(isinstance(value, str) for value in box):
        report("numbers as text", f"bbox {short_repr(box)}")
        return [value for value in values if value is not None]
    return box


def check_segmentation(segmentation: Any, height: int, width: int, report: Report) -> Segmentation | None:
    """Validate and repair a segmentation.

    Args:
        segmentation: Segmentation of an annotation or result, not empty.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        report: Called with kind and value of each issue.

    Returns:
        The repaired segmentation, or None if nothing can be drawn.
    """
    if isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(segmentation[0], dict):
        report("segmentation nested unusually", "run lengths within a list")
        segmentation = segmentation[0]
    if isinstance(segmentation, dict):
        return _check_runs(segmentation, height, width, report)
    polygons = _nested(segmentation, report)
    if polygons is None:
        return report("unknown segmentation", f"segmentation {short_repr(segmentation)}")
    kept = [checked for polygon in polygons if (checked := _check_polygon(polygon, height, width, report))]
    return _drawn(kept, height, width, report) if kept else None


def is_drawable(segmentation: Any, height: int, width: int) -> bool:
    """Return whether a segmentation needs no repairs: polygons in COCO's form, or run lengths of the size of the image.

    Args:
        segmentation: Segmentation of an annotation, not empty.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
    """
    if isinstance(segmentation, list):
        return all(
            _are_numbers(polygon)
            and len(polygon) >= 6
            and len(polygon) % 2 == 0
            and _is_finite(polygon)
            and can_draw(polygon, height, width)
            for polygon in segmentation
        )
    try:
        mask_box(segmentation, height, width)
    except ValueError:
        return False
    return isinstance(segmentation, dict) and segmentation.get("size") == [height, width]


def _check_runs(runs: dict[str, Any], height: int, width: int, report: Report) -> Segmentation | None:
    size, counts = runs.get("size"), runs.get("counts")
    if integers(size) != [height, width]:
        return report("RLE size mismatch", f"size {short_repr(size)} in an image of {[height, width]}")
    if isinstance(counts, str) and (text := bytes_in_text(counts)) is not None:
        report("numbers as text", f"counts {short_repr(counts)}")
        counts = text
    numbers = [*(size or ()), *(counts if isinstance(counts, list) else ())]
    if any(isinstance(number, str) for number in numbers):
        report("numbers as text", f"size {short_repr(size)}, counts {short_repr(counts)}")
    elif any(isinstance(number, float) for number in numbers):
        report("RLE numbers not integers", f"size {short_repr(size)}, counts {short_repr(counts)}")
    if isinstance(counts, list) and any(isinstance(count, float | str) for count in counts):
        counts = integers(counts)
    return _drawn({**runs, "size": [height, width], "counts": counts}, height, width, report)


def _drawn(segmentation: Any, height: int, width: int, report: Report) -> Segmentation | None:
    try:
        box = mask_box(segmentation, height, width)
    except ValueError as error:
        return report("invalid RLE", str(error))
    if box is None:
        report("mask without pixels", f"segmentation {short_repr(segmentation)}")
    return Segmentation(segmentation, (height, width), box)


def _nested(segmentation: Any, report: Report) -> list[list[float]] | None:
    """Return a list of polygons, also from nonstandard forms, or None."""
    polygons, form = as_polygons(segmentation)
    if polygons is None:
        polygons, form = as_polygons(without_text(segmentation))
        if polygons is not None:
            report("numbers as text", f"segmentation {short_repr(segmentation)}")
    if form:
        report("segmentation nested unusually", form)
    return polygons


def _check_polygon(polygon: list[float], height: int, width: int, report: Report) -> list[float] | None:
    if len(polygon) < 6:
        return report("polygon of fewer than three points", f"{len(polygon)} coordinates")
    if not _is_finite(polygon):
        return report("polygon not finite", f"polygon {short_repr(polygon)}")
    if len(polygon) % 2:
        report("odd number of polygon coordinates", f"{len(polygon)} coordinates")
        polygon = polygon[:-1]
    if not can_draw(polygon, height, width):
        far = max(map(abs, polygon))
        return report("polygon far outside the image", f"a coordinate of {far:.6g} in {width} x {height} pixels")
    return polygon


def _is_finite(values: Sequence[float]) -> bool:
    """Return whether no value is NaN, infinite or too large for a float, as JSON integers can be."""
    try:
        total = sum(values)  # NaN or infinite if a value is
    except OverflowError:
        return False
    if -_HUGE < total < _HUGE:
        return min(values) > -_HUGE and max(values) < _HUGE
    return all(abs(value) < _HUGE for value in values)
