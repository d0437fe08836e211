"""Learning curves, confusion matrices and contact sheets."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image, ImageDraw, ImageFont

from gcnet.errors import printable
from gcnet.storage import write_atomic
from gcnet.visualization.fonts import legible, picture_font, use_fallback_fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Okabe & Ito's palette: its colours stay apart for every common kind of colour blindness.
BLUE, VERMILLION, GREEN, INK, PALE = "#0072B2", "#D55E00", "#009E73", "#333333", "#D9D9D9"
COUNTED_CLASSES = 20  # up to here a confusion matrix has room for a number in each cell
NAMED_CLASSES = 60  # up to here it has room for every class name beside its row and column
LISTED_CONFUSIONS = 30


ACCURACY: Mapping[str, str] = {"top1": "top-1", "top5": "top-5"}


def plot_learning_curves(
    rows: Sequence[Mapping[str, Any]],
    path: Path | str,
    *,
    scores: Mapping[str, str] = ACCURACY,
    quantity: str = "share of validation images",
    loss: str = "cross-entropy (nats)",
) -> None:
    """Draw loss, scores and learning rate over the epochs into a PNG.

    Each row is one epoch: `epoch`, `train_loss`, `learning_rate`, and where they were measured `val_loss` and the
    scores (fractions from 0 to 1). Epochs without a value are passed over, one that is not finite leaves a gap.

    Args:
        rows: of the evaluations.
        path: of the PNG.
        scores: of each score's key in a row its name; the best of the first is told.
        quantity: what the scores are.
        loss: what the loss is.
    """
    figure = Figure(figsize=(13, 4), layout="constrained")
    losses, accuracy, rate = figure.subplots(1, 3)
    _curve(losses, rows, "train_loss", "training", BLUE)
    _curve(losses, rows, "val_loss", "validation", VERMILLION)
    _finish(losses, "Loss", loss)
    for (key, name), colour in zip(scores.items(), (VERMILLION, GREEN, BLUE, INK), strict=False):
        _curve(accuracy, rows, key, name, colour)
    _finish(accuracy, _best(rows, *next(iter(scores.items()))), quantity)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    _curve(rate, rows, "learning_rate", "", BLUE)
    _finish(rate, "Learning rate", "learning rate")
    rate.set_ylim(bottom=0)
    epochs = [float(row["epoch"]) for row in rows] or [0.0]
    margin = 0.03 * (max(epochs) - min(epochs)) or 0.5
    whole = max(epochs) >= 2 or all(epoch == round(epoch) for epoch in epochs)
    for axes in (losses, accuracy, rate):
        axes.set_xlim(min(epochs) - margin, max(epochs) + margin)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=whole, min_n_ticks=1))
    save_figure(figure, path)


def _curve(axes: "Axes", rows: Sequence[Mapping[str, Any]], key: str, label: str, colour: str) -> None:
    measured = [row for row in rows if row.get(key) not in (None, "")]
    if not measured:
        return
    values = np.array([float(row[key]) for row in measured])
    values[~np.isfinite(values)] = np.nan
    epochs = [float(row["epoch"]) for row in measured]
    marker = "o" if len(rows) <= 40 else None
    axes.plot(epochs, values, color=colour, marker=marker, markersize=4, linewidth=1.8, label=label or None)


def _best(rows: Sequence[Mapping[str, Any]], key: str, name: str) -> str:
    measured = [(float(row[key]), row["epoch"]) for row in rows if row.get(key) not in (None, "")]
    title = "Accuracy" if key in ACCURACY else "Precision"
    if not measured:
        return f"{title} (not measured)"
    best, epoch = max(measured, key=lambda pair: pair[0])
    return f"{title} (best {name} {best:.1%}, epoch {float(epoch):.3g})"


def style_axes(axes: "Axes", title: str, horizontal: str, vertical: str) -> None:
    """Give axes their title and labels, a pale grid behind the data, and no frame."""
    axes.set_title(title, loc="left", fontsize=12, color=INK)
    axes.set_xlabel(horizontal, fontsize=11)
    axes.set_ylabel(vertical, fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _finish(axes: "Axes", title: str, label: str) -> None:
    style_axes(axes, title, "epoch", label)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=10)


def plot_confusion(matrix: Any, classes: Sequence[str], path: Path | str, *, title: str = "") -> None:
    """Draw a confusion matrix (counts, rows = true class, columns = predicted) of 2 to 1000 classes into a PNG.

    Cells are colored by their share of the row. With few classes they also show the counts; with many classes a list of
    the most frequent confusions stands beside the matrix. Rows without images are gray.

    Args:
        matrix: counts (K, K), integers; rows are true classes, columns predicted ones.
        classes: K names, in the order of the rows.
        path: the PNG file.
        title: added to the title, such as the weights and the epoch.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    total = counts.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, counts / np.maximum(total, 1), np.nan)
    size = len(classes)
    side = min(max(4.0, 0.5 * size) if size <= COUNTED_CLASSES else 0.21 * size + 3, 13.0)
    listed = size > COUNTED_CLASSES
    figure = Figure(figsize=(side + 2.6 + (5.5 if listed else 0), side + 1.6), dpi=130, layout="constrained")
    if listed:
        axes, beside = figure.subplots(1, 2, width_ratios=(side + 2, 5.5))
        _list_confusions(beside, counts, classes)
    else:
        axes = figure.subplots()
    colours = matplotlib.colormaps["Blues"].with_extremes(bad=PALE)
    norm = PowerNorm(0.4 if listed else 1.0, vmin=0, vmax=1)  # the root keeps rare confusions visible among many
    picture = axes.imshow(shares, cmap=colours, norm=norm, interpolation="nearest")
    if size > NAMED_CLASSES:
        _mark_cells(axes, shares, colours, norm)
    bar = figure.colorbar(picture, ax=axes, fraction=0.04, pad=0.02, format=PercentFormatter(1, decimals=0))
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1] if listed else [0, 0.2, 0.4, 0.6, 0.8, 1])
    bar.set_label("share of the images of the true class", fontsize=10)
    _name_ticks(axes, classes)
    if size <= COUNTED_CLASSES:
        _write_counts(axes, counts, shares)
    images = int(counts.sum())
    correct = int(np.trace(counts))
    share = f", {correct / images:.2%} correct" if images else ""
    which = f"{title}, " if title else ""
    axes.set_title(f"Confusion matrix ({which}{images:,} images{share})", loc="left", fontsize=12, color=INK)
    save_figure(figure, path)


def _mark_cells(axes: "Axes", shares: np.ndarray, colours: Colormap, norm: PowerNorm) -> None:
    """Cells of hundreds of classes are about a pixel: draw those that are not empty larger, strong ones on top."""
    rows, columns = np.nonzero(np.nan_to_num(shares))
    values = shares[rows, columns]
    order = np.argsort(values)
    axes.scatter(columns[order], rows[order], c=values[order], cmap=colours, norm=norm, marker="s", s=5, linewidths=0)


def _name_ticks(axes: "Axes", classes: Sequence[str]) -> None:
    suffix = "" if len(classes) <= NAMED_CLASSES else f" (number of the class, 0 to {len(classes) - 1})"
    axes.set_xlabel("predicted class" + suffix, fontsize=11)
    axes.set_ylabel("true class" + suffix, fontsize=11)
    if suffix:
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(10, integer=True))
        return
    names = [plain(name, 22) for name in classes]
    size = 10 if len(classes) <= COUNTED_CLASSES else 7.5
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > COUNTED_CLASSES else 45, fontsize=size)
    if len(names) <= COUNTED_CLASSES:
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")
    axes.set_yticks(range(len(names)), names, fontsize=size)


def _write_counts(axes: "Axes", counts: np.ndarray, shares: np.ndarray) -> None:
    size = 12 if len(counts) <= 5 else 9 if counts.max() < 1000 else 7.5
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, str(count), ha="center", va="center", fontsize=size, color=colour)


def _list_confusions(axes: "Axes", counts: np.ndarray, classes: Sequence[str]) -> None:
    axes.axis("off")
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED_CONFUSIONS]
    lines = []
    for true, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[true, predicted]:
            number = f"{wrong[true, predicted]:>4} of {counts[true].sum():<4}"
            lines.append(f"{number} {plain(classes[true], 19)} \N{RIGHTWARDS ARROW} {plain(classes[predicted], 19)}")
    text = "\n".join(lines) if lines else "none"
    axes.set_title("Most frequent confusions (true \N{RIGHTWARDS ARROW} predicted)", loc="left", fontsize=12, color=INK)
    axes.text(0, 1, text, va="top", family="monospace", fontsize=10.5, color=INK, linespacing=1.5)


def contact_sheet(
    images: Sequence[Any], titles: Sequence[str], path: Path | str, columns: int = 6, *, tile: int = 176
) -> None:
    """Write images side by side, each with its title below, into a PNG.

    An image is a PIL image or a uint8 array (H, W) or (H, W, 3); it is fitted into a square of `tile` pixels, small
    ones enlarged by whole factors so that their pixels stay square. A title may have several lines; too long ones are
    shortened.
    """
    if len(images) != len(titles) or not images:
        raise ValueError(
            f"a contact sheet needs as many titles as images and at least one; {len(images)}, {len(titles)}"
        )
    columns = min(columns, len(images))
    margin, line = 10, 17
    text = line * max(title.count("\n") + 1 for title in titles) + 6
    rows = -(-len(images) // columns)
    width, height = columns * (tile + margin) + margin, rows * (tile + text + margin) + margin
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        left = margin + number % columns * (tile + margin)
        top = margin + number // columns * (tile + text + margin)
        fitted = _fit(image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image)), tile)
        draw.rectangle((left, top, left + tile - 1, top + tile - 1), fill="#F2F2F2")
        sheet.paste(fitted, (left + (tile - fitted.width) // 2, top + (tile - fitted.height) // 2))
        for row, words in enumerate(title.split("\n")):
            font = picture_font(13, legible(printable(words)))
            words = _fit_text(legible(printable(words)), font, tile)
            draw.text((left, top + tile + 3 + row * line), words, fill=INK, font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_atomic(Path(path), buffer.getvalue())


def _fit(image: Image.Image, tile: int) -> Image.Image:
    image = image.convert("RGB")
    factor = tile / max(image.size)
    if factor >= 2:
        factor = float(int(factor))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.NEAREST if factor >= 2 else Image.Resampling.LANCZOS)


def _fit_text(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    kept = len(text)
    while kept and font.getlength(_shorten(text, kept)) > width:
        kept -= 1
    return _shorten(text, kept)


def _shorten(text: str, length: int) -> str:
    """The text, cut in its middle to `length` characters (names of files and classes often differ at their ends)."""
    if len(text) <= length:
        return text
    head = max(0, (length - 1) // 2)
    tail = max(0, length - 1 - head)
    return f"{text[:head]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - tail :]}"


def plain(text: str, length: int) -> str:
    """The text for matplotlib: shortened, and without dollar signs, which it would read as formulas."""
    return _shorten(legible(printable(text)), length).replace("$", r"\$")


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write a figure as PNG, atomically."""
    FigureCanvasAgg(figure)
    use_fallback_fonts(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.15)
    write_atomic(Path(path), buffer.getvalue())
