"""Figures of a comparison: scores with spread, learning curves, accuracy against cost, and costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from gcnet.comparison.results import BASELINE, CONTROL, MAIN, Comparison, Run
from gcnet.comparison.summary import difference_cell, relative_step_time
from gcnet.visualization.style import (
    BASELINE_COLOR,
    INK,
    SOFT,
    block_color,
    figure_caption,
    figure_png,
    figure_svg,
    label_lines,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

MOST_CURVES = 3
"""Maximum number of blocks in one panel of learning curves; with more, each has a panel with the baseline."""
_COLUMNS = 4  # of small panels
_ROW = 0.36  # inches of a block's row


@dataclass(frozen=True)
class CurveSummary:
    """Learning curve of one block over its seeds, in percent or points.

    Attributes:
        epochs: at which all seeds were evaluated.
        means: over seeds.
        lows: lowest seed.
        highs: highest seed.
    """

    epochs: tuple[float, ...]
    means: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]


def render_figure(comparison: Comparison) -> bytes:
    """Return a PNG of `comparison`: scores, learning curves, and accuracy against cost."""
    blocks = comparison.tested()
    rows = max(4.2, _ROW * len(blocks) + 1.6)
    if len(blocks) <= MOST_CURVES:
        figure = Figure(figsize=(16, rows), dpi=110, layout="constrained")
        score, curves, cost = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
        _draw_curves(curves, comparison, MAIN, height=0.75 * rows)
        figure.legend(handles=_score_handles(comparison), **_LEGEND)
    else:
        lines = -(-(len(blocks) - 1) // _COLUMNS)
        figure = Figure(figsize=(14, rows + 2.1 * lines), dpi=110, layout="constrained")
        halves: Any = figure.subfigures(2, 1, height_ratios=(rows, 2.1 * lines))
        upper, lower = halves
        score, cost = upper.subplots(1, 2, width_ratios=(1.2, 1))
        upper.legend(handles=_score_handles(comparison), **_LEGEND)
        _draw_small_curves(lower, comparison, MAIN)
    _draw_scores(score, comparison, (MAIN, CONTROL))
    _draw_cost(cost, comparison, height=0.75 * rows)
    figure.suptitle(f"Blocks in {comparison.model}, trained on {comparison.data}", x=0.01, ha="left", fontsize=14)
    return figure_png(figure, caption=_caption(comparison))


def score_svg(comparison: Comparison, setting: str = MAIN) -> str:
    """Draw the scores of a setting and their differences to the baseline.

    Args:
        comparison: of the blocks.
        setting: `MAIN` or `CONTROL`.

    Returns:
        SVG text.
    """
    figure = Figure(figsize=(9.6, _ROW * len(comparison.tested(setting)) + 1.1), layout="constrained")
    axes = figure.subplots()
    _draw_scores(axes, comparison, (setting,), differences=True)
    axes.set_title("", loc="left")
    name = "control setting" if setting == CONTROL else "main setting"
    return figure_svg(figure, f"{comparison.score.title} by block, {name}")


def curves_svg(comparison: Comparison, setting: str = MAIN) -> str:
    """Draw the learning curves.

    Args:
        comparison: of the blocks.
        setting: `MAIN` or `CONTROL`.

    Returns:
        SVG text, empty if there are fewer than two points.
    """
    blocks = comparison.tested(setting)
    if sum(len(curve_summary(comparison, block, setting).epochs) for block in blocks) < 2:
        return ""
    if len(blocks) <= MOST_CURVES:
        figure = Figure(figsize=(9.6, 3.8), layout="constrained")
        axes = figure.subplots()
        _draw_curves(axes, comparison, setting, height=3.0)
        axes.set_title("", loc="left")
    else:
        figure = Figure(figsize=(9.6, 1.9 * -(-(len(blocks) - 1) // _COLUMNS) + 0.4), layout="constrained")
        _draw_small_curves(figure, comparison, setting)
    return figure_svg(figure, f"Validation {comparison.score.name} by epoch, {setting}")


def cost_svg(comparison: Comparison, title: str, values: Mapping[str, float], unit: str) -> str:
    """Draw one cost of each block as bars from zero, with its ratio to the baseline.

    Args:
        comparison: of the blocks.
        title: of the chart.
        values: by block, in `unit`; empty for no chart.
        unit: behind each value.

    Returns:
        SVG text.
    """
    if not values:
        return ""
    figure = Figure(figsize=(4.6, 0.27 * len(values) + 0.5), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(values)), list(values.values()), color=[block_color(block) for block in values], height=0.62)
    baseline = values.get(BASELINE)
    for row, (block, value) in enumerate(values.items()):
        ratio = f" ({value / baseline:.2f}x)" if baseline and block != BASELINE else ""
        axes.text(value, row, f" {value:.3g} {unit}{ratio}", va="center", fontsize=9, color=INK)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_yticks(range(len(values)), list(values), fontsize=9, color=INK)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_xlim(0, 1.02 * max(values.values()) or 1)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
    axes.tick_params(length=0)
    return figure_svg(figure, f"{title} by block in {comparison.model}")


def curve_summary(comparison: Comparison, block: str, setting: str = MAIN) -> CurveSummary:
    """Summarize the first score over seeds at their common evaluations.

    Args:
        comparison: of the blocks.
        block: its name.
        setting: `MAIN` or `CONTROL`.

    Returns:
        Mean and range by epoch.
    """
    column = comparison.score.column
    runs: list[Run] = comparison.of(block, setting)
    measured = [{point.epoch: 100 * point.scores[column] for point in run.curve} for run in runs]
    epochs = sorted(set.intersection(*map(set, measured))) if measured else []
    values = [[run[epoch] for run in measured] for epoch in epochs]
    return CurveSummary(
        tuple(epochs),
        tuple(sum(one) / len(one) for one in values),
        tuple(map(min, values)),
        tuple(map(max, values)),
    )


_LEGEND: dict[str, Any] = {"loc": "outside lower left", "ncols": 5, "frameon": False, "fontsize": 9}


def _caption(comparison: Comparison) -> str:
    images = min(run.images for run in comparison.runs if run.setting == MAIN)
    return figure_caption(
        comparison.data, comparison.model, _seeds(comparison), f"{images:,} validation images", date=comparison.created
    )


def _seeds(comparison: Comparison) -> str:
    return f"{len(comparison.seeds)} seeds" if len(comparison.seeds) > 1 else "one seed"


def _draw_scores(axes: "Axes", comparison: Comparison, settings: Sequence[str], *, differences: bool = False) -> None:
    """A row for each block: a dot for each seed, their mean as a bar, and a band of one standard deviation."""
    blocks = comparison.tested(settings[0])
    for setting in settings:
        shift = 0.25 if setting != settings[0] else 0.0
        for row, block in enumerate(blocks):
            if comparison.of(block, setting):
                _draw_score_row(axes, comparison, block, setting, row + shift)
    if BASELINE in blocks:
        mean = 100 * comparison.result(BASELINE, settings[0]).mean
        axes.axvline(mean, color=BASELINE_COLOR, linestyle="--", linewidth=1.2, zorder=1)
    axes.set_yticks(range(len(blocks)), blocks)
    axes.set_ylim(len(blocks) - 0.4, -0.6)
    axes.margins(x=0.06)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -0.5), min(high, 100.5))
    style_axes(axes, f"{comparison.score.title}, {_seeds(comparison)}", comparison.score.heading, "")
    if differences and BASELINE in blocks:
        for row, block in enumerate(blocks):
            text = difference_cell(comparison, block, settings[0]) if block != BASELINE else ""
            axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=10, color=INK)


def _draw_score_row(axes: "Axes", comparison: Comparison, block: str, setting: str, row: float) -> None:
    color, result = block_color(block), comparison.result(block, setting)
    mean, spread = 100 * result.mean, 100 * (result.deviation or 0)
    if spread:
        axes.plot([mean - spread, mean + spread], [row, row], color=color, linewidth=7, alpha=0.3, zorder=2)
    values = [100 * value for value in comparison.values(block, setting)]
    hollow = setting == CONTROL
    axes.scatter(
        values,
        [row] * len(values),
        marker="D" if hollow else "o",
        facecolor="none" if hollow else color,
        edgecolor=color,
        s=28,
        zorder=3,
    )
    axes.plot([mean, mean], [row - 0.2, row + 0.2], color=color, linewidth=2.5, zorder=4)


def _score_handles(comparison: Comparison) -> list[Line2D | Patch]:
    """The legend of the marks in the panel of scores."""
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=INK, marker="o", linestyle="", markersize=5, label="one seed"),
        Line2D([], [], color=INK, marker="|", linestyle="", markersize=12, markeredgewidth=2.5, label="mean"),
    ]
    if len(comparison.seeds) > 1:
        handles.append(Patch(color=INK, alpha=0.3, label="\N{PLUS-MINUS SIGN} standard deviation"))
    if BASELINE in comparison.tested():
        handles.append(Line2D([], [], color=BASELINE_COLOR, linestyle="--", label="mean without block"))
    if comparison.tested(CONTROL):
        mark: dict[str, Any] = {"marker": "D", "markerfacecolor": "none", "markersize": 5, "linestyle": ""}
        handles.append(Line2D([], [], color=INK, label=f"control ({comparison.control_data})", **mark))
    return handles


def _draw_curves(axes: "Axes", comparison: Comparison, setting: str, *, height: float) -> None:
    ends = []
    for block in comparison.tested(setting):
        curve = curve_summary(comparison, block, setting)
        _draw_curve(axes, curve, block_color(block))
        if curve.epochs:
            ends.append((curve.epochs[-1], curve.means[-1], block, block_color(block)))
    style_axes(axes, f"Learning curves{_of_seeds(comparison)}", "epoch", f"validation {comparison.score.heading}")
    label_lines(axes, ends, height=height)


def _of_seeds(comparison: Comparison) -> str:
    return ": mean and range of seeds" if len(comparison.seeds) > 1 else ""


def _draw_small_curves(figure: "Figure | SubFigure", comparison: Comparison, setting: str) -> None:
    """A small panel for each block, with the baseline in gray."""
    blocks = [block for block in comparison.tested(setting) if block != BASELINE]
    rows = -(-len(blocks) // _COLUMNS)
    grid = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).flatten()
    baseline = curve_summary(comparison, BASELINE, setting)
    for axes, block in zip(grid, blocks, strict=False):
        axes.plot(baseline.epochs, baseline.means, color=BASELINE_COLOR, linewidth=1.2)
        _draw_curve(axes, curve_summary(comparison, block, setting), block_color(block))
        style_axes(axes, "", "", "")
        axes.set_title(block, loc="left", fontsize=10, color=INK)
        axes.tick_params(labelsize=8)
    for axes in grid[len(blocks) :]:
        axes.axis("off")
    text = f"Validation {comparison.score.heading} by epoch{_of_seeds(comparison)}; gray: no block"
    figure.suptitle(text, x=0.01, ha="left", fontsize=12, color=INK)


def _draw_curve(axes: "Axes", curve: CurveSummary, color: str) -> None:
    axes.fill_between(curve.epochs, curve.lows, curve.highs, color=color, alpha=0.15, linewidth=0)
    axes.plot(curve.epochs, curve.means, color=color, linewidth=1.8, marker="o" if len(curve.epochs) < 3 else None)


def _draw_cost(axes: "Axes", comparison: Comparison, *, height: float) -> None:
    points = []
    for block in comparison.tested():
        ratio, result = relative_step_time(comparison, block), comparison.result(block)
        if ratio is None:
            continue
        mean, spread = 100 * result.mean, 100 * (result.deviation or 0)
        axes.plot([ratio, ratio], [mean - spread, mean + spread], color=block_color(block), linewidth=5, alpha=0.3)
        axes.scatter(ratio, mean, color=block_color(block), s=55, zorder=3)
        points.append((ratio, mean, block, block_color(block)))
    score = comparison.score
    axes.margins(x=0.12, y=0.1)
    style_axes(axes, f"{score.title} against cost", f"training step time ({BASELINE} = 1)", score.heading)
    if points:
        label_lines(axes, points, height=height)
    else:
        axes.text(0.5, 0.5, "costs not measured", transform=axes.transAxes, ha="center", color=SOFT)
