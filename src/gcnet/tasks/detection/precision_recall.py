"""Precision-recall curves."""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from gcnet.tasks.detection.metrics import DetectionResult
from gcnet.visualization.plots import BLUE, GREEN, INK, VERMILLION, plain, save_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


NAMED_CLASSES = 10  # up to here each class has a line of its own
_RECALL = np.linspace(0, 1, 101)
_IOU_50, _IOU_75 = 0, 5  # rows of `DetectionResult.precision`


def plot_precision_recall(boxes: DetectionResult, masks: DetectionResult | None, path: Path | str) -> None:
    """Draw precision over recall, of boxes and, if there are any, of masks, into a PNG.

    Thick lines are means over the classes that have objects: at IoU 0.50, at 0.75, and over 0.50 to 0.95. Up to
    `NAMED_CLASSES` classes also have a thin line each, at IoU 0.50. The area under a line is the average precision,
    which the legend has times 100.
    """
    panels = [(boxes, "Boxes")] if masks is None else [(boxes, "Boxes"), (masks, "Masks")]
    figure = Figure(figsize=(7 * len(panels), 5.6), layout="constrained")
    for axes, (result, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, result)
        style_axes(axes, title, "recall", "precision")
        axes.set_xlim(0, 1.01)
        axes.set_ylim(0, 1.02)
        if axes.lines:
            axes.legend(frameon=False, fontsize=9.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_figure(figure, path)


def _draw(axes: "Axes", result: DetectionResult) -> None:
    precision = result.precision[:, :, np.isfinite(result.precision).all(axis=(0, 1))]  # classes that have objects
    if not precision.size:
        axes.text(0.5, 0.5, "no object to find", ha="center", color=INK)
        return
    mean = precision.mean(axis=2)
    _head(axes, "mean over the classes")
    for values, name, colour, style in (
        (mean[_IOU_50], "IoU 0.50", BLUE, "-"),
        (mean[_IOU_75], "IoU 0.75", VERMILLION, "--"),
        (mean.mean(axis=0), "IoU 0.50 to 0.95", GREEN, "-."),
    ):
        label = _label(name, values)
        axes.plot(_RECALL, values, color=colour, linestyle=style, linewidth=2.4, zorder=3, label=label)
    if len(result.per_class) <= NAMED_CLASSES:
        _head(axes, "each class, IoU 0.50")
        _draw_classes(axes, result)


def _draw_classes(axes: "Axes", result: DetectionResult) -> None:
    colours = matplotlib.colormaps["tab10"]
    for number, name in enumerate(result.per_class):
        values = result.precision[_IOU_50, :, number]
        if np.isfinite(values).all():
            axes.plot(_RECALL, values, color=colours(number), linewidth=0.9, label=_label(plain(name, 24), values))


def _head(axes: "Axes", title: str) -> None:
    """A line of text in the legend."""
    axes.plot([], [], " ", label=title)


def _label(name: str, values: Float[np.ndarray, "101"]) -> str:
    return f"{name}: AP {100 * values.mean():.1f}"
