"""Figure of costs by stage: of networks, or their differences to a baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, StrMethodFormatter

from gcnet.costs.report import CostReport, Quantity, scaled_quantities
from gcnet.visualization.fonts import shown_text
from gcnet.visualization.style import INK, PALE, PALETTE, figure_caption, figure_png, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BY_STAGE = ("parameters", "flops", "activation_bytes")
_WHOLE = ("forward_seconds", "step_seconds", "step_peak_bytes")
_PANELS = 2  # side by side, legible at the width of a page
_MOST_STAGES = 12  # in the legend; with more, totals are drawn


def render_costs(reports: Sequence[CostReport], against: Sequence[CostReport | None] = ()) -> bytes:
    """Draw a bar for each report, stacked by stage, as PNG; measured times and peak memory are of whole networks.

    Args:
        reports: costs of networks, at one or several image sizes.
        against: the baseline of each report. With baselines, bars are differences to them; reports without are skipped.
            Parameters are drawn once for each model, not for each image size.

    Returns:
        The PNG.
    """
    pairs = [(report, other) for report, other in zip(reports, against, strict=False) if other is not None]
    if not pairs:
        pairs = [(report, None) for report in reports]
    models = list({(report.model, other and other.model): (report, other) for report, other in pairs}.values())
    keys = [key for key in (*_BY_STAGE, *_WHOLE) if any(key in report.total.values for report, _ in pairs)]
    has_sizes = len(models) < len(pairs)
    if has_sizes:  # the panel of parameters has labels of its own, and comes last
        keys.sort(key="parameters".__eq__)
    rows = -(-len(keys) // _PANELS)
    columns = min(len(keys), _PANELS)
    size = (4.4 * columns + 2, 0.9 + (1.1 + 0.42 * len(pairs)) * rows)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    colors = _stage_colors(pairs)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for index, (key, axes) in enumerate(zip(keys, panels, strict=False)):
        has_own_labels = has_sizes and key == "parameters"
        shown = models if has_own_labels else pairs
        _draw_quantity(axes, key, shown, colors if key in _BY_STAGE else {})
        names = [shown_text(_label(report, has_size=not has_own_labels), 48) for report, _ in shown]
        axes.set_yticks(range(len(shown)), names if index % _PANELS == 0 or has_own_labels else [""] * len(shown))
        axes.set_ylim(len(shown) - 0.4, -0.6)
    for axes in panels[len(keys) :]:
        axes.axis("off")
    handles = [Patch(color=color, label=stage) for stage, color in colors.items()]
    if not colors or any(key in _WHOLE for key in keys):
        handles.append(Patch(color=PALE, label="whole network"))
    figure.legend(handles=handles, loc="outside lower center", ncols=7, frameon=False, fontsize=10)
    others = sorted({other.model.rpartition("/")[2] for _, other in pairs if other})
    if others:
        figure.suptitle(f"Added to {', '.join(others)}", x=0.01, ha="left", fontsize=13, color=INK)
    batches = ", ".join(sorted({str(report.batch) for report, _ in pairs}))
    return figure_png(figure, caption=figure_caption(f"FLOPs of one image, activations of a batch of {batches}"))


def _label(report: CostReport, *, has_size: bool) -> str:
    return (report.title() if has_size else report.model).rpartition("/")[2]


def _stage_colors(pairs: Sequence[tuple[CostReport, CostReport | None]]) -> dict[str, str]:
    """The color of each stage that is drawn; empty if there are too many."""
    reports = [report for pair in pairs for report in pair if report]
    stages = list(dict.fromkeys(row.part for report in reports for row in report.lines if row.kind == "stage"))
    if len(stages) > _MOST_STAGES:
        return {}
    drawn = {
        stage
        for stage in stages
        for report, other in pairs
        if any(_value(report, stage, key) != _value(other, stage, key) for key in _BY_STAGE)
    }
    return {stage: PALETTE[index % len(PALETTE)] for index, stage in enumerate(stages) if stage in drawn}


def _draw_quantity(
    axes: "Axes", key: str, pairs: Sequence[tuple[CostReport, CostReport | None]], colors: Mapping[str, str]
) -> None:
    """One bar for each pair, its stages side by side; without stages, gray totals."""
    rows = range(len(pairs))
    totals = [_value(report, "total", key) - _value(other, "total", key) for report, other in pairs]
    quantity = _quantity(key, pairs, totals)
    ends = {True: [0.0] * len(pairs), False: [0.0] * len(pairs)}  # of the bars to the right and to the left
    for part, color in (colors or {"total": PALE}).items():
        values = [(_value(report, part, key) - _value(other, part, key)) / quantity.unit for report, other in pairs]
        starts = [ends[value >= 0][row] for row, value in zip(rows, values, strict=True)]
        axes.barh(rows, values, left=starts, height=0.6, color=color)
        for row, value in zip(rows, values, strict=True):
            ends[value >= 0][row] += value
    for row, (total, (_, other)) in enumerate(zip(totals, pairs, strict=True)):
        baseline = _value(other, "total", key)
        text = quantity.text(total) if other is None else quantity.difference(total + baseline, baseline)
        axes.text(ends[True][row], row, f" {text}", va="center", fontsize=9, color=INK)
    low, high = min(ends[False]), max(ends[True])
    axes.set_xlim(1.05 * low, high + 0.5 * (high - low) or 1)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(EngFormatter(sep="") if key == "parameters" else StrMethodFormatter("{x:,g}"))
    style_axes(axes, quantity.heading, "", "")


def _quantity(key: str, pairs: Sequence[tuple[CostReport, CostReport | None]], totals: Sequence[float]) -> Quantity:
    """The unit and heading, in a unit that suits differences where there are baselines."""
    if pairs[0][1] is None:
        return scaled_quantities([report.total for report, _ in pairs])[key]
    rows = [replace(report.total, values={key: abs(total)}) for (report, _), total in zip(pairs, totals, strict=True)]
    return scaled_quantities(rows)[key]


def _value(report: CostReport | None, part: str, key: str) -> float:
    rows = () if report is None else report.lines
    return next((row.values.get(key, 0.0) for row in rows if row.part == part), 0.0)
