"""Fonts for names in any script, and the placement of labels."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.text import Text
from PIL import ImageFont

_DEFAULT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def picture_font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """The font for text on pictures.

    Args:
        size: in pixels.
        text: what is to be written; where matplotlib's font lacks a character of it, an installed font is taken.
    """
    return ImageFont.truetype(_font_with(_missing(text)) or _DEFAULT, size)


def legible(text: str) -> str:
    """The text, with characters that no installed font has escaped; warns about these once."""
    missing = _missing(text)
    if not missing or _font_with(missing) is not None:
        return text
    _warn_missing(missing)
    return "".join(ascii(letter)[1:-1] if letter in missing else letter for letter in text)


def use_fallback_fonts(figure: Figure) -> None:
    """Give every text of a figure an installed font that has the characters matplotlib's own lacks."""
    for text in figure.findobj(Text):
        missing = _missing(text.get_text())
        font = _font_with(missing) if missing else None
        if font is not None:
            text.set_fontfamily([*text.get_fontfamily(), FontProperties(fname=font).get_name()])


@cache
def _characters(font: Path) -> frozenset[int]:
    return frozenset(get_font(font).get_charmap())


@cache
def _missing(text: str) -> frozenset[str]:
    """The printable characters of a text that matplotlib's font lacks."""
    return frozenset(letter for letter in text if letter.isprintable() and ord(letter) not in _characters(_DEFAULT))


@cache
def _font_with(letters: frozenset[str]) -> Path | None:
    """The first installed font that has all the letters; None if there are no letters, or no such font."""
    codes = {ord(letter) for letter in letters}
    return next((font for font in _installed() if codes <= _characters(font)), None) if codes else None


def _installed() -> Iterator[Path]:
    """Fonts that are installed on the system, without matplotlib's own."""
    own = _DEFAULT.parents[1]
    yield from (Path(entry.fname) for entry in fontManager.ttflist if own not in Path(entry.fname).parents)


@cache
def _warn_missing(letters: frozenset[str]) -> None:
    shown = "".join(sorted(letters))
    warnings.warn(
        f'no installed font has the characters "{shown}", which are escaped in pictures; '
        "install a font such as Noto Sans CJK",
        stacklevel=4,
    )


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
