"""Learning curves and confusion matrices."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from gcnet.visualization.fonts import shown_text
from gcnet.visualization.style import BLUE, GREEN, INK, PALE, PALETTE, VERMILION, save_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Rows = Sequence[Mapping[str, Any]]

COUNTED_CLASSES = 20  # up to here a confusion matrix has room for a number in each cell
_NAMED_CLASSES = 60  # up to here it has room for every class name beside its row and column
LISTED_CONFUSIONS = 30
_PANELS = 3  # side by side
_LOG_RATIO = 10  # losses whose largest value is more than this multiple of the smallest have a logarithmic axis
_MARKED_ROWS = 40  # up to here each measurement is marked by a dot
_NO_LOSSES = {
    *("kind", "step", "epoch", "loss", "learning_rate", "seconds"),
    *("images_per_second", "data_wait_fraction", "gpu_memory_bytes"),
}


def plot_learning_curves(
    rows: _Rows,
    path: Path | str,
    *,
    scores: Mapping[str, Mapping[str, str]],
    loss: str = "cross-entropy (nats)",
    caption: str = "",
) -> None:
    """Draw losses, scores and learning rate over the epochs into a PNG, a panel each.

    Args:
        rows: of metrics.jsonl. Rows of steps (`kind` "train") have `epoch`, `loss`, `learning_rate` and the parts of
            the loss, where it has several, by name. All others are evaluations, with `epoch`, `train_loss`,
            `learning_rate` and, where measured, `val_loss` and the scores as fractions. Missing values are skipped;
            values that are not finite leave a gap.
        path: of the PNG.
        scores: for each panel its title, and the names of its scores by their keys in the rows, with the unit (%) if
            they have one. The best value of the first score is part of the title.
        loss: label of the loss axis, with its unit.
        caption: small text below the figure, from `gcnet.visualization.style.figure_caption`.
    """
    steps = [row for row in rows if row.get("kind") == "train"]
    evaluations = [row for row in rows if row.get("kind") != "train"]
    parts = list(dict.fromkeys(name for row in steps for name in row if name not in _NO_LOSSES))
    count = 2 + bool(parts) + len(scores)
    columns = 2 if count == 4 else min(count, _PANELS)
    height = -(-count // columns)
    figure = Figure(figsize=(4.4 * columns, 3.7 * height), layout="constrained")
    panels = list(figure.subplots(height, columns, squeeze=False).flatten())
    for axes in panels[count:]:
        axes.axis("off")
    remaining = iter(panels)
    _draw_losses(next(remaining), steps, evaluations, loss)
    if parts:
        _draw_parts(next(remaining), steps, parts)
    for title, names in scores.items():
        _draw_scores(next(remaining), evaluations, title, names)
    rate = next(remaining)
    _draw_curve(rate, steps or evaluations, "learning_rate", color=BLUE, marked=not steps)
    style_axes(rate, "Learning rate", "epoch", "learning rate")
    rate.set_ylim(bottom=0)
    _limit_epochs(panels[:count], [*steps, *evaluations])
    save_figure(figure, path, caption=caption)


def _draw_losses(axes: "Axes", steps: _Rows, evaluations: _Rows, label: str) -> None:
    if steps:
        _draw_curve(axes, steps, "loss", "training, by step", color=BLUE, marked=False)
    else:
        _draw_curve(axes, evaluations, "train_loss", "training", color=BLUE)
    _draw_curve(axes, evaluations, "val_loss", "validation", color=VERMILION)
    style_axes(axes, "Loss", "epoch", label)
    _add_legend(axes)
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines] or [np.ones(1)])
    if np.nanmin(values, initial=np.inf) > 0 and np.nanmax(values) > _LOG_RATIO * np.nanmin(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")


def _draw_parts(axes: "Axes", steps: _Rows, parts: Sequence[str]) -> None:
    for name, color in zip(parts, PALETTE, strict=False):
        _draw_curve(axes, steps, name, name.removeprefix("loss_").replace("_", " "), color=color, marked=False)
    style_axes(axes, "Parts of the training loss", "epoch", "loss")
    _add_legend(axes)


def _draw_scores(axes: "Axes", evaluations: _Rows, title: str, names: Mapping[str, str]) -> None:
    for (key, name), color in zip(names.items(), (VERMILION, GREEN, BLUE, INK), strict=False):
        _draw_curve(axes, evaluations, key, name, color=color, factor=100)
    style_axes(axes, title, "epoch", ", ".join(names.values()))
    first, name = next(iter(names.items()))
    measured = [(float(row[first]), float(row["epoch"])) for row in evaluations if row.get(first) not in (None, "")]
    best, epoch = max(measured, key=itemgetter(0), default=(None, 0.0))  # the first of equal ones, as in training
    unit = " %" if name.endswith("(%)") else ""
    text = "not measured" if best is None else f"best {100 * best:.1f}{unit} in epoch {epoch:.3g}"
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    axes.set_title(f"{title} ({text})", loc="left", fontsize=12, color=INK)
    if len(names) > 1:
        _add_legend(axes)


def _draw_curve(
    axes: "Axes", rows: _Rows, key: str, label: str = "", *, color: str, factor: float = 1.0, marked: bool = True
) -> None:
    measured = [row for row in rows if row.get(key) not in (None, "")]
    if not measured:
        return
    values = np.array([factor * float(row[key]) for row in measured])
    values[~np.isfinite(values)] = np.nan
    marker = "o" if (marked and len(rows) <= _MARKED_ROWS) or len(measured) == 1 else None
    epochs = [float(row["epoch"]) for row in measured]
    axes.plot(epochs, values, color=color, marker=marker, markersize=4, linewidth=1.6, label=label or None)


def _limit_epochs(panels: Sequence["Axes"], rows: _Rows) -> None:
    """Give all panels the same range of epochs."""
    epochs = [float(row["epoch"]) for row in rows] or [0.0]
    margin = 0.03 * (max(epochs) - min(epochs)) or 0.5
    for axes in panels:
        axes.set_xlim(min(epochs) - margin, max(epochs) + margin)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=max(epochs) >= 3, min_n_ticks=1))


def _add_legend(axes: "Axes") -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=9)


def plot_confusion(
    matrix: Any, classes: Sequence[str], path: Path | str, *, title: str = "", caption: str = ""
) -> None:
    """Draw a confusion matrix of 2 to 1000 classes into a PNG.

    Cells are colored by their share of the row. With few classes they also show the counts; with many classes a list of
    the most frequent confusions is beside the matrix. Rows without images are gray.

    Args:
        matrix: counts (K, K), integers; rows are true classes, columns predicted ones.
        classes: K names, in the order of the rows.
        path: the PNG file.
        title: added to the title, such as the weights and the epoch.
        caption: small text below the figure, from `gcnet.visualization.style.figure_caption`.
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
    _draw_matrix(figure, axes, counts, shares, classes)
    images, correct = int(counts.sum()), int(np.trace(counts))
    share = f", {100 * correct / images:.1f} % correct" if images else ""
    prefix = f"{title}, " if title else ""
    axes.set_title(f"Confusion matrix ({prefix}{images:,} images{share})", loc="left", fontsize=12, color=INK)
    save_figure(figure, path, caption=caption)


def _draw_matrix(figure: Figure, axes: "Axes", counts: np.ndarray, shares: np.ndarray, classes: Sequence[str]) -> None:
    size = len(classes)
    many = size > COUNTED_CLASSES
    colors = matplotlib.colormaps["Blues"].with_extremes(bad=PALE)
    norm = PowerNorm(0.4 if many else 1.0, vmin=0, vmax=1)  # the root keeps rare confusions visible among many
    drawn = axes.imshow(shares, cmap=colors, norm=norm, interpolation="nearest")
    if size > _NAMED_CLASSES:
        _mark_cells(axes, shares, colors, norm)
    bar = figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02, format=PercentFormatter(1, decimals=0))
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1] if many else [0, 0.2, 0.4, 0.6, 0.8, 1])
    bar.set_label("share of the images of the true class", fontsize=10)
    _name_ticks(axes, classes)
    if not many:
        _write_counts(axes, counts, shares)


def _mark_cells(axes: "Axes", shares: np.ndarray, colors: Colormap, norm: PowerNorm) -> None:
    """Cells of hundreds of classes are about a pixel: draw those that are not empty larger, strong ones on top."""
    rows, columns = np.nonzero(np.nan_to_num(shares))
    values = shares[rows, columns]
    order = np.argsort(values)
    axes.scatter(columns[order], rows[order], c=values[order], cmap=colors, norm=norm, marker="s", s=5, linewidths=0)


def _name_ticks(axes: "Axes", classes: Sequence[str]) -> None:
    suffix = "" if len(classes) <= _NAMED_CLASSES else f" (index of the class, 0 to {len(classes) - 1})"
    axes.set_xlabel("predicted class" + suffix, fontsize=11)
    axes.set_ylabel("true class" + suffix, fontsize=11)
    if suffix:
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(10, integer=True))
        return
    names = [shown_text(name, 22) for name in classes]
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
            color = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, str(count), ha="center", va="center", fontsize=size, color=color)


def _list_confusions(axes: "Axes", counts: np.ndarray, classes: Sequence[str]) -> None:
    axes.axis("off")
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED_CONFUSIONS]
    arrow, lines = "\N{RIGHTWARDS ARROW}", []
    for true, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[true, predicted]:
            number = f"{wrong[true, predicted]:>4} of {counts[true].sum():<4}"
            pair = (
                f"{shown_text(classes[true], 17)} ({true}) {arrow} {shown_text(classes[predicted], 17)} ({predicted})"
            )
            lines.append(f"{number} {pair}")
    text = "\n".join(lines) if lines else "none"
    axes.set_title(f"Most frequent confusions (true {arrow} predicted)", loc="left", fontsize=12, color=INK)
    axes.text(0, 1, text, va="top", family="monospace", fontsize=10, color=INK, linespacing=1.5)
