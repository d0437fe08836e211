"""Text in figures: fonts for any script, shortening, escapes for missing characters."""

import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.text import Text
from PIL import ImageFont

from gcnet.errors import printable

_DEFAULT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def picture_font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """Return the font for text drawn on an image.

    Args:
        size: height in pixels.
        text: text to draw; if DejaVu Sans lacks a character of it, an installed font that has it is used instead.
    """
    return ImageFont.truetype(_font_with(_missing(text)) or _DEFAULT, size)


def picture_text(text: str, length: int = 40) -> str:
    """Return text for drawing on an image: printable, in characters that a font has, shortened in its middle.

    Args:
        text: such as a class or file name.
        length: maximum number of characters.
    """
    return shorten(legible(printable(text)), length)


def shown_text(text: str, length: int) -> str:
    """Return text for Matplotlib: as `picture_text`, with dollar signs escaped, which would start a formula.

    Args:
        text: such as a class or file name.
        length: maximum number of characters.
    """
    return picture_text(text, length).replace("$", r"\$")


def shorten(text: str, length: int) -> str:
    """Return text cut in its middle, since file and class names often differ at their ends.

    Args:
        text: to cut.
        length: maximum number of characters.
    """
    if len(text) <= length:
        return text
    head = max(0, (length - 1) // 2)
    tail = max(0, length - 1 - head)
    return f"{text[:head]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - tail :]}"


def shorten_to_width(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return text cut in its middle until it fits.

    Args:
        text: to cut.
        font: in which it is drawn.
        width: maximum width in pixels.
    """
    length = len(text)
    while length and font.getlength(shorten(text, length)) > width:
        length -= 1
    return shorten(text, length)


def legible(text: str) -> str:
    r"""Return `text` with characters that no installed font has escaped (`\u732b`); warns once for each set of them."""
    missing = _missing(text)
    if not missing or _font_with(missing) is not None:
        return text
    _warn_missing(missing)
    return "".join(ascii(letter)[1:-1] if letter in missing else letter for letter in text)


def use_fallback_fonts(figure: Figure) -> None:
    """Add to each text of a figure an installed font with the characters that Matplotlib's own font lacks."""
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
    """The printable characters of a text that DejaVu Sans lacks."""
    return frozenset(letter for letter in text if letter.isprintable() and ord(letter) not in _characters(_DEFAULT))


@cache
def _font_with(letters: frozenset[str]) -> Path | None:
    """The first installed font with all of the letters; None without letters or such a font."""
    codes = {ord(letter) for letter in letters}
    return next((font for font in _installed() if codes <= _characters(font)), None) if codes else None


def _installed() -> Iterator[Path]:
    """The fonts of the system, without Matplotlib's own."""
    own = _DEFAULT.parents[1]
    yield from (Path(entry.fname) for entry in fontManager.ttflist if own not in Path(entry.fname).parents)


@cache
def _warn_missing(letters: frozenset[str]) -> None:
    shown = "".join(sorted(letters))
    warnings.warn(
        f'no installed font has the characters "{shown}", which are escaped in figures; '
        "install a font such as Noto Sans CJK",
        stacklevel=4,
    )
