"""Figure of costs: a bar for each network and image size, stacked by stage."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter

from gcnet.costs.report import CostReport, Quantity, scaled_quantities
from gcnet.visualization.fonts import shown_text
from gcnet.visualization.style import PALE, PALETTE, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_BY_STAGE = ("parameters", "flops", "kept_bytes")
_WHOLE = ("forward_seconds", "step_seconds", "step_peak_bytes")
_PANELS = 3  # in a row: wider figures cannot be read on a page
_MOST_STAGES = 12  # in the legend; of more, the totals are drawn


def render_costs(bills: Sequence[CostReport]) -> bytes:
    """Return a figure of `bills` as PNG bytes, with times and peak memory of whole networks if they were measured."""
    keys = [key for key in (*_BY_STAGE, *_WHOLE) if any(key in bill.total.values for bill in bills)]
    rows = -(-len(keys) // _PANELS)
    figure = Figure(figsize=(4.2 * min(len(keys), _PANELS) + 2, 0.9 + (1 + 0.45 * len(bills)) * rows))
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    stages = list(dict.fromkeys(line.part for bill in bills for line in bill.lines if line.kind == "stage"))
    stages = stages if len(stages) <= _MOST_STAGES else []
    colours = {stage: PALETTE[index % len(PALETTE)] for index, stage in enumerate(stages)}
    quantities = scaled_quantities([bill.total for bill in bills])
    panels = figure.subplots(rows, min(len(keys), _PANELS), squeeze=False).flatten()
    for index, (key, axes) in enumerate(zip(keys, panels, strict=False)):
        _draw(axes, quantities[key], key, bills, colours if key in _BY_STAGE else {})
        names = [shown_text(_short_title(bill), 60) if index % _PANELS == 0 else "" for bill in bills]
        axes.set_yticks(range(len(bills)), names)
        axes.set_ylim(len(bills) - 0.4, -0.6)
    for axes in panels[len(keys) :]:
        axes.axis("off")
    handles = [Patch(color=colour, label=stage) for stage, colour in colours.items()]
    if not colours or any(key in _WHOLE for key in keys):
        handles.append(Patch(color=PALE, label="whole network"))
    figure.legend(handles=handles, loc="outside lower center", ncols=8, frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()


def _short_title(bill: CostReport) -> str:
    """Of a model file its name without the folders."""
    return bill.title().rpartition("/")[2]


def _draw(axes: "Axes", quantity: Quantity, key: str, bills: Sequence[CostReport], colours: Mapping[str, str]) -> None:
    """The stages of every bill end to end in their colours; without stages, the totals in grey."""
    rows = range(len(bills))
    starts = [0.0] * len(bills)
    for part, colour in (colours or {"total": PALE}).items():
        values = [_value(bill, part, key) / quantity.unit for bill in bills]
        axes.barh(rows, values, left=starts, height=0.6, color=colour)
        starts = [start + value for start, value in zip(starts, values, strict=True)]
    for row, end in zip(rows, starts, strict=True):
        axes.text(end, row, f" {quantity.text(end * quantity.unit)}", va="center", fontsize=9)
    axes.set_xlim(0, 1.3 * max(starts) or 1)
    axes.locator_params(axis="x", nbins=4)
    if key == "parameters":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    style_axes(axes, quantity.heading, "", "")


def _value(bill: CostReport, part: str, key: str) -> float:
    return next((line.values.get(key, 0.0) for line in bill.lines if line.part == part), 0.0)
