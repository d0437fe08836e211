"""Where the texts of boxes go on a picture, so that none covers another."""

from collections.abc import Iterable, Sequence

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""


def label_places(box: Box, size: tuple[float, float], sheet: tuple[int, int]) -> list[Box]:
    """Where a text of `size` (width, height) may go on a `sheet` (width, height): above, in or below its box."""
    (left, top, _, bottom), (width, height) = box, size
    x = min(max(left, 0), max(sheet[0] - width, 0))
    tops = [min(max(y, 0), sheet[1] - height) for y in (top - height, top, bottom - height, bottom)]
    return [(x, y, x + width, y + height) for y in tops]


def first_free(places: Iterable[Box], taken: Sequence[Box]) -> Box | None:
    """The first of the places that overlaps with none that is taken."""
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), None)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
