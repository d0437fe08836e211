"""Style of all figures: one color per block, axes, captions, PNG and SVG output."""

import io
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from gcnet.storage import write_atomic
from gcnet.visualization.fonts import picture_font, picture_text, shorten_to_width, shown_text, use_fallback_fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which remains distinguishable with all common forms of color blindness.
BLUE, VERMILION, GREEN, ORANGE = "#0072b2", "#d55e00", "#009e73", "#e69f00"
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, "#cc79a7", "#56b4e9", "#b8a800", "#7a5195")
INK, SOFT, PALE = "#333333", "#6b7280", "#d9d9d9"

BASELINE_COLOR = "#8a8f98"
_BLOCK_COLORS = {
    "none": BASELINE_COLOR,
    "gc": VERMILION,
    "snl": ORANGE,
    "se": "#56b4e9",
    "nl_embedded_gaussian": BLUE,
    "nl_gaussian": "#cc79a7",
    "nl_dot_product": GREEN,
    "nl_concatenation": "#b8a800",
    "dnl": "#7a5195",
    "gc_slots": "#b03a2e",
    "gc_eca": "#8c564b",
    "gc_affine": "#f4845f",
    "eca": "#17a2b8",
    "ese": "#2f6690",
    "lct": "#3a7d44",
    "gct": "#81a684",
    "gated_gct": "#556b2f",
    "grn": "#c2185b",
    "srm": "#9575cd",
    "fca": "#00695c",
    "ge": "#5d4037",
}
_OTHER_COLORS = tuple(matplotlib.colormaps["tab20"].colors[::2])  # ty: ignore[missing-attribute]


def block_color(block: str) -> str:
    """Return the color of a block, the same in every figure.

    Args:
        block: name of a block, "none", or a name with options such as "gc:heads=4", which is a lighter or darker shade.
            A block that is not part of the package gets a color by the checksum of its name.

    Returns:
        A color such as "#d55e00".
    """
    match = re.match(r"\w+", block)
    name = match[0] if match else block
    options = block[len(name) :]
    color = _BLOCK_COLORS.get(name) or _OTHER_COLORS[zlib.crc32(name.encode()) % len(_OTHER_COLORS)]
    shade = (0.35, -0.3, 0.6)[zlib.crc32(options.encode()) % 3] if options else 0.0
    target, amount = (1.0 if shade > 0 else 0.0), abs(shade)
    red, green, blue = ((1 - amount) * part + amount * target for part in matplotlib.colors.to_rgb(color))
    return matplotlib.colors.to_hex((red, green, blue))


def style_axes(axes: "Axes", title: str, x_label: str, y_label: str) -> None:
    """Set title and labels, draw a pale grid behind the data, and remove the upper and right spines.

    Args:
        axes: to style.
        title: at the upper left.
        x_label: of the horizontal axis, with its unit.
        y_label: of the vertical axis, with its unit.
    """
    axes.set_title(title, loc="left", fontsize=12, color=INK)
    axes.set_xlabel(x_label, fontsize=11, color=INK)
    axes.set_ylabel(y_label, fontsize=11, color=INK)
    axes.tick_params(labelsize=10, labelcolor=INK, color=INK)
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)


def label_lines(axes: "Axes", ends: Sequence[tuple[float, float, str, str]], *, height: float) -> None:
    """Write names right of the axes, at the height of their points but without overlap, joined to them by thin lines.

    Call this after everything else is drawn.

    Args:
        axes: with the points; their limits become fixed.
        ends: x, y (in data coordinates), name and color of each point.
        height: of the axes in inches, about.
    """
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    step = (high - low) * 0.17 / height
    heights: list[float] = []
    ordered = sorted(ends, key=lambda end: -end[1])
    for _, y, _, _ in ordered:
        heights.append(min(y, heights[-1] - step) if heights else y)
    shift = max(0.0, low - min(heights, default=low))  # below the axes: move all up
    for (x, y, name, color), height in zip(ordered, heights, strict=True):
        axes.annotate(
            shown_text(name, 24),
            xy=(x, y),
            xytext=(1.03, height + shift),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0},
            annotation_clip=False,
        )


def figure_caption(*parts: str, date: str = "") -> str:
    """Return a line with data set, network, number of images and date of a figure.

    Args:
        parts: in words; empty ones are skipped.
        date: of the measurement (default: today).
    """
    date = date or datetime.now(UTC).strftime("%Y-%m-%d")
    return "  \N{MIDDLE DOT}  ".join([*filter(None, parts), date])


def folder_title(paths: Iterable[str | Path]) -> str:
    """Return the last two names of the folder that contains all files, such as "photos/val"; "" for the root.

    Args:
        paths: at least one file.
    """
    folder = Path(os.path.commonpath([Path(path).resolve().parent for path in paths]))
    return "/".join(folder.relative_to(folder.anchor).parts[-2:])


def save_figure(figure: Figure, path: Path | str, *, caption: str = "") -> None:
    """Write a figure as PNG, atomically.

    Args:
        figure: to write.
        path: of the file.
        caption: small text below the figure, from `figure_caption`.
    """
    write_atomic(Path(path), figure_png(figure, caption=caption))


def figure_png(figure: Figure, *, caption: str = "") -> bytes:
    """Return a figure as PNG.

    Args:
        figure: to render.
        caption: small text below the figure, from `figure_caption`.
    """
    FigureCanvasAgg(figure)
    use_fallback_fonts(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", bbox_inches="tight", pad_inches=0.15)
    return _with_caption(stream, caption, round(8.5 / 72 * figure.dpi)) if caption else stream.getvalue()


def _with_caption(stream: io.BytesIO, caption: str, size: int) -> bytes:
    """A PNG with text of `size` pixels below."""
    text = picture_text(caption, 200)
    with Image.open(stream) as opened:
        image = opened.convert("RGB")
    sheet = Image.new("RGB", (image.width, image.height + 2 * size), "white")
    sheet.paste(image)
    font = picture_font(size, text)
    text = shorten_to_width(text, font, image.width - 2 * size)
    ImageDraw.Draw(sheet).text((size, image.height), text, fill=SOFT, font=font)
    captioned = io.BytesIO()
    sheet.save(captioned, "PNG", optimize=True)
    return captioned.getvalue()


def figure_svg(figure: Figure, label: str) -> str:
    """Return a figure as an `<svg>` element for an HTML page.

    Text and grid take the colors of the page, light or dark, through `currentColor` and the CSS variable `--line`. The
    same figure gives the same text.

    Args:
        figure: to render; its background becomes transparent.
        label: alternative text, which also makes the ids in the SVG unique within the page.
    """
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "sans-serif"}):
        figure.savefig(stream, format="svg", bbox_inches="tight", pad_inches=0.05, metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    for color, replacement in ((INK, "currentColor"), (PALE, "var(--line)"), (SOFT, "var(--soft)")):
        svg = svg.replace(color, replacement)
    return svg
