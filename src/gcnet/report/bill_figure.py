"""The figure of what networks cost: a bar a network and image size, its stages one after the other."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.ticker import EngFormatter

from gcnet.evaluation.plots import plain, style_axes
from gcnet.report.bill import QUANTITIES, Bill
from gcnet.report.charts import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BY_STAGE = ("parameters", "flops", "kept_bytes")
_WHOLE = ("forward_seconds", "step_seconds", "step_peak_bytes")


def render_bills(bills: Sequence[Bill]) -> bytes:
    """The figure as PNG bytes; times and peak memory, where they were measured, of whole networks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    keys = [key for key in (*_BY_STAGE, *_WHOLE) if any(key in bill.total.values for bill in bills)]
    figure = Figure(figsize=(4.2 * len(keys) + 2, 1.9 + 0.45 * len(bills)), layout="constrained")
    FigureCanvasAgg(figure)
    stages = list(dict.fromkeys(line.part for bill in bills for line in bill.lines if line.kind == "stage"))
    for index, (key, axes) in enumerate(zip(keys, figure.subplots(1, len(keys), squeeze=False)[0], strict=True)):
        _draw(axes, key, bills, stages if key in _BY_STAGE else [])
        axes.set_yticks(range(len(bills)), [plain(bill.title(), 60) if index == 0 else "" for bill in bills])
        axes.set_ylim(len(bills) - 0.4, -0.6)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=10, frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()


def _draw(axes: "Axes", key: str, bills: Sequence[Bill], stages: Sequence[str]) -> None:
    """The stages of every bill end to end; without stages, the totals."""
    quantity, rows = QUANTITIES[key], range(len(bills))
    parts = stages or ["total"]
    starts = [0.0] * len(bills)
    for index, part in enumerate(parts):
        values = [_value(bill, part, key) / quantity.unit for bill in bills]
        colour = COLOURS[index % len(COLOURS)] if stages else COLOURS[1]
        axes.barh(rows, values, left=starts, height=0.6, color=colour, label=part if stages else None)
        starts = [start + value for start, value in zip(starts, values, strict=True)]
    for row, end in zip(rows, starts, strict=True):
        axes.text(end, row, f" {quantity.text(end * quantity.unit)}", va="center", fontsize=9)
    axes.set_xlim(0, 1.3 * max(starts))
    axes.locator_params(axis="x", nbins=4)
    if key == "parameters":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    style_axes(axes, quantity.heading, "", "")


def _value(bill: Bill, part: str, key: str) -> float:
    return next((line.values.get(key, 0.0) for line in bill.lines if line.part == part), 0.0)
