"""Figure of a comparison (PNG): scores with spread, learning curves, and score against cost."""

import io
from statistics import fmean
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gcnet.comparison.charts import colours
from gcnet.comparison.results import BASELINE, CONTROL, MAIN, Comparison
from gcnet.comparison.summary import relative_step_time
from gcnet.visualization.plots import INK, style_axes
from gcnet.visualization.style import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_DASHES = ("-", "--", ":", "-.")


def render_figure(comparison: Comparison) -> bytes:
    """The figure as PNG bytes."""
    blocks = comparison.tested()
    figure = Figure(figsize=(14, max(4.8, 0.3 * len(blocks) + 2)), layout="constrained")
    FigureCanvasAgg(figure)
    score, curves, cost = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    _draw_score(score, comparison)
    _draw_curves(curves, comparison)
    _draw_cost(cost, comparison)
    columns = min(len(blocks), len(COLOURS) + 1)
    figure.legend(*curves.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()


def _draw_score(axes: "Axes", comparison: Comparison) -> None:
    blocks, palette = comparison.tested(), colours(comparison.blocks)
    for row, block in enumerate(blocks):
        for setting, shift, marker in ((MAIN, 0.0, "o"), (CONTROL, 0.2, "D")):
            values = comparison.values(block, setting)
            if not values:
                continue
            found = comparison.result(block, setting)
            face = palette[block] if setting == MAIN else "white"
            spread = 100 * (found.deviation or 0)
            axes.errorbar(
                100 * found.mean, row + shift, xerr=spread or None, color=palette[block], linewidth=5, alpha=0.3
            )
            axes.scatter(
                [100 * value for value in values],
                [row + shift] * len(values),
                marker=marker,
                facecolor=face,
                edgecolor=palette[block],
                s=34,
                zorder=3,
            )
    if BASELINE in blocks:
        axes.axvline(100 * comparison.result(BASELINE).mean, color=INK, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(blocks)), blocks)
    axes.set_ylim(len(blocks) - 0.4, -0.6)
    several = len(comparison.seeds) > 1
    seeds = f"{len(comparison.seeds)} seeds" if several else "one seed"
    hollow = "; hollow: control" if comparison.tested(CONTROL) else ""
    score = comparison.score
    band = "; band: standard deviation" if several else ""
    style_axes(axes, f"{score.title}, {seeds}{hollow}", f"{score.heading}{band}", "")


def _draw_curves(axes: "Axes", comparison: Comparison) -> None:
    """A line for each run; with more blocks than colours one for each block, dashed where its colour returns."""
    palette, score = colours(comparison.blocks), comparison.score
    for block in comparison.tested():
        runs = [
            ([point.epoch for point in run.curve], [100 * point.scores[score.column] for point in run.curve])
            for run in comparison.of(block)
        ]
        if _has_many(comparison):
            runs = [(runs[0][0], [fmean(values) for values in zip(*(values for _, values in runs), strict=True)])]
        for index, (epochs, values) in enumerate(runs):
            axes.plot(
                epochs,
                values,
                color=palette[block],
                linestyle=_dashes(comparison, block),
                linewidth=1.6,
                alpha=0.9,
                label=block if index == 0 else None,
            )
    mean = ", mean over seeds" if _has_many(comparison) and len(comparison.seeds) > 1 else ""
    style_axes(axes, f"Learning curves{mean}", "epoch", f"validation {score.heading}")


def _has_many(comparison: Comparison) -> bool:
    """Whether there are more blocks than colours."""
    return len(comparison.tested()) > len(COLOURS) + 1


def _dashes(comparison: Comparison, block: str) -> str:
    others = [name for name in comparison.blocks if name != BASELINE]
    return _DASHES[others.index(block) // len(COLOURS) % len(_DASHES)] if block in others else "-"


def _draw_cost(axes: "Axes", comparison: Comparison) -> None:
    palette = colours(comparison.blocks)
    points = {block: relative_step_time(comparison, block) for block in comparison.tested()}
    measured = {block: ratio for block, ratio in points.items() if ratio is not None}
    for block, ratio in measured.items():
        found = comparison.result(block)
        at, spread = (ratio, 100 * found.mean), 100 * (found.deviation or 0)
        axes.errorbar(*at, yerr=spread or None, color=palette[block], linewidth=5, alpha=0.3)
        axes.scatter(*at, color=palette[block], s=70, zorder=3)
        if _has_many(comparison):
            axes.annotate(block, at, xytext=(6, 5), textcoords="offset points", fontsize=8, color=INK, zorder=4)
    axes.margins(x=0.3, y=0.15)
    score = comparison.score
    style_axes(axes, f"{score.title} against cost", f"time of a training step ({BASELINE} = 1)", score.heading)
