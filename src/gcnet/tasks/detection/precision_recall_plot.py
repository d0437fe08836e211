"""Precision-recall curves."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from gcnet.tasks.detection.coco_metrics import DetectionResult
from gcnet.visualization.fonts import shown_text
from gcnet.visualization.style import BLUE, GREEN, INK, PALETTE, VERMILION, save_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED_CLASSES = 10  # maximum number of classes with a line each
_RECALL = np.linspace(0, 100, 101)
_IOU_50, _IOU_75 = 0, 5  # rows of `DetectionResult.precision`


def plot_precision_recall(
    boxes: DetectionResult, masks: DetectionResult | None, path: Path | str, *, caption: str = ""
) -> None:
    """Plot precision over recall in percent: a panel for boxes and, if given, one for masks.

    Thick lines are means over the classes with objects: at IoU 0.50, at IoU 0.75, and over IoU 0.50 to 0.95. With 2 to
    10 classes, thin lines show each class at IoU 0.50. The legend gives the area under each line, the
    average precision (AP), from 0 to 100.

    Args:
        boxes: metrics of the boxes.
        masks: metrics of the masks, or None.
        path: PNG file.
        caption: small text below, from `gcnet.visualization.style.figure_caption`.
    """
    panels = [(boxes, "Boxes")] if masks is None else [(boxes, "Boxes"), (masks, "Masks")]
    figure = Figure(figsize=(7 * len(panels), 5.6), layout="constrained")
    for axes, (result, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, result)
        style_axes(axes, title, "recall (%)", "precision (%)")
        axes.set_xlim(0, 101)
        axes.set_ylim(0, 102)
        if axes.lines:
            axes.legend(frameon=False, fontsize=9.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_figure(figure, path, caption=caption)


def _draw(axes: "Axes", result: DetectionResult) -> None:
    precision = result.precision[:, :, np.isfinite(result.precision).all(axis=(0, 1))]  # classes that have objects
    if not precision.size:
        axes.text(50, 50, "no objects", ha="center", color=INK)
        return
    mean = precision.mean(axis=2)
    _legend_heading(axes, "mean over the classes")
    for values, name, color, style in (
        (mean[_IOU_50], "IoU 0.50", BLUE, "-"),
        (mean[_IOU_75], "IoU 0.75", VERMILION, "--"),
        (mean.mean(axis=0), "IoU 0.50 to 0.95", GREEN, "-."),
    ):
        axes.plot(
            _RECALL, 100 * values, color=color, linestyle=style, linewidth=2.4, zorder=3, label=_label(name, values)
        )
    if precision.shape[2] > 1 and len(result.per_class) <= _NAMED_CLASSES:
        _legend_heading(axes, "each class, IoU 0.50")
        _draw_classes(axes, result)


def _draw_classes(axes: "Axes", result: DetectionResult) -> None:
    """Draw a thin line for each class, dotted after the first cycle of colors."""
    for number, name in enumerate(result.per_class):
        values = result.precision[_IOU_50, :, number]
        if np.isfinite(values).all():
            color, style = PALETTE[number % len(PALETTE)], "-" if number < len(PALETTE) else ":"
            label = _label(shown_text(name, 24), values)
            axes.plot(_RECALL, 100 * values, color=color, linestyle=style, linewidth=0.9, label=label)


def _legend_heading(axes: "Axes", text: str) -> None:
    axes.plot([], [], " ", label=text)


def _label(name: str, values: Float[np.ndarray, "101"]) -> str:
    return f"{name}: AP {100 * values.mean():.1f}"
