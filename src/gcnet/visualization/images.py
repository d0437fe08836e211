"""Images in figures and pages: fitting, encoding, contact sheets."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from gcnet.storage import write_atomic
from gcnet.visualization.fonts import picture_font, picture_text, shorten_to_width
from gcnet.visualization.style import INK, SOFT

_MARGIN, _LINE, _TEXT = 10, 17, 13  # pixels: around tiles, of a line of text, of letters
_LONGEST_TITLE = 200


def fit_image(image: Image.Image, side: int) -> Image.Image:
    """Resize an image so that its longer side is `side` pixels, or the largest multiple of it below that.

    Args:
        image: in any mode.
        side: pixels. Images of at most half of it are enlarged by a whole factor without smoothing, so that their
            pixels stay visible as squares; others are resized with smoothing.

    Returns:
        The resized image in RGB.
    """
    image = image.convert("RGB")
    factor = side / max(image.size)
    if factor >= 2:
        factor = float(int(factor))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.NEAREST if factor >= 2 else Image.Resampling.LANCZOS)


def encode_jpeg(image: Image.Image) -> bytes:
    """Return the RGB `image` as JPEG of quality 90 without chroma subsampling."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90, subsampling=0)
    return stream.getvalue()


def data_uri(image: Image.Image) -> str:
    """Return the RGB `image` as JPEG in a `data:` URI for an HTML page."""
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(image)).decode()}"


def contact_sheet(
    images: Sequence[Any],
    titles: Sequence[str],
    path: Path | str,
    columns: int = 6,
    *,
    tile: int = 176,
    caption: str = "",
) -> None:
    """Write a PNG with a grid of images, each with its title below.

    Args:
        images: as of `draw_contact_sheet`.
        titles: as of `draw_contact_sheet`.
        path: of the PNG.
        columns: maximum number of images side by side.
        tile: side in pixels of the square that each image is fitted into.
        caption: small text below the grid, from `gcnet.visualization.style.figure_caption`.

    Raises:
        ValueError: without images, or with another number of titles.
    """
    stream = io.BytesIO()
    draw_contact_sheet(images, titles, columns=columns, tile=tile, caption=caption).save(stream, "PNG", optimize=True)
    write_atomic(Path(path), stream.getvalue())


def draw_contact_sheet(
    images: Sequence[Any], titles: Sequence[str], *, columns: int = 6, tile: int = 176, caption: str = ""
) -> Image.Image:
    """Draw a grid of images, each with its title below.

    Args:
        images: PIL images or uint8 arrays (H, W) or (H, W, 3); at least one.
        titles: one for each image, of one or several lines; long lines are shortened in their middle.
        columns: maximum number of images side by side.
        tile: side in pixels of the square that each image is fitted into.
        caption: small text below the grid, from `gcnet.visualization.style.figure_caption`.

    Returns:
        The sheet, RGB.

    Raises:
        ValueError: without images, or with another number of titles.
    """
    if len(images) != len(titles) or not images:
        raise ValueError(f"expected as many titles as images, and at least one; got {len(images)} and {len(titles)}")
    columns = min(columns, len(images))
    text_height = _LINE * max(title.count("\n") + 1 for title in titles) + 6
    rows = -(-len(images) // columns)
    width = columns * (tile + _MARGIN) + _MARGIN
    height = rows * (tile + text_height + _MARGIN) + _MARGIN + (_LINE if caption else 0)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        left = _MARGIN + number % columns * (tile + _MARGIN)
        top = _MARGIN + number // columns * (tile + text_height + _MARGIN)
        fitted = fit_image(image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image)), tile)
        draw.rectangle((left, top, left + tile - 1, top + tile - 1), fill="#F2F2F2")
        sheet.paste(fitted, (left + (tile - fitted.width) // 2, top + (tile - fitted.height) // 2))
        for row, line in enumerate(title.split("\n")):
            _write_line(draw, line, (left, top + tile + 3 + row * _LINE), tile)
    if caption:
        _write_line(draw, caption, (_MARGIN, height - _LINE - 4), width - 2 * _MARGIN, size=11, color=SOFT)
    return sheet


def _write_line(
    draw: ImageDraw.ImageDraw, text: str, place: tuple[int, int], width: int, *, size: int = _TEXT, color: str = INK
) -> None:
    text = picture_text(text, _LONGEST_TITLE)
    font = picture_font(size, text)
    draw.text(place, shorten_to_width(text, font, width), fill=color, font=font)
