"""Normalizes segmentations in nonstandard forms: other nesting, numbers as text."""

from typing import Any

from gcnet.data.coco.ids import as_integer


def as_number(value: Any) -> float | None:
    """The number that a value is, or that a text stands for; None for anything else."""
    if isinstance(value, str) and len(value) <= 30 and "_" not in value:
        try:
            return float(value)
        except ValueError:
            return None
    return value if _is_number(value) else None


def without_text(values: Any, depth: int = 3) -> Any:
    """Nested lists with their texts as numbers where these stand for numbers; anything else as it is."""
    if isinstance(values, list) and depth:
        return [without_text(value, depth - 1) for value in values]
    number = as_number(values) if isinstance(values, str) else None
    return values if number is None else number


def as_polygons(segmentation: Any) -> tuple[list[list[float]] | None, str]:
    """Polygons, each x0, y0, x1, y1, ..., and in which other form they were, "" for COCO's; None for no polygons."""
    if not isinstance(segmentation, list) or not segmentation:
        return None, ""
    if _are_numbers(segmentation):
        return [segmentation], "one polygon that is not in a list"
    if _are_points(segmentation):
        return [_joined(segmentation)], "a list of points"
    if all(map(_are_numbers, segmentation)):
        return segmentation, ""
    if all(map(_are_points, segmentation)):
        return [_joined(points) for points in segmentation], "polygons as lists of points"
    inner = segmentation[0]
    if len(segmentation) == 1 and isinstance(inner, list):
        if all(map(_are_numbers, inner)):
            return inner, "a list of polygons within a list"
        if all(map(_are_points, inner)):
            return [_joined(points) for points in inner], "polygons as lists of points within a list"
    return None, ""


def integers(values: Any) -> list[int] | None:
    """A list of numbers, or texts of them, as integers; None unless all are whole."""
    if not isinstance(values, list):
        return None
    whole = [as_integer(value) for value in values]
    return None if None in whole else [value for value in whole if value is not None]


def bytes_in_text(counts: str) -> str | None:
    """The text of bytes that Python's str() wrote, such as "b'PZk0'"; None for other text."""
    if len(counts) < 3 or not counts.startswith("b'") or not counts.endswith("'"):
        return None
    return counts[2:-1].replace("\\\\", "\\")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(map(_is_number, values))


def _are_points(values: Any) -> bool:
    """Whether it is a list of three points or more, each x, y."""
    return (
        isinstance(values, list)
        and len(values) >= 3
        and all(_are_numbers(point) and len(point) == 2 for point in values)
    )


def _joined(points: list[list[float]]) -> list[float]:
    return [value for point in points for value in point]
