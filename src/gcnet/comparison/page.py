"""HTML page of a comparison: self-contained, without scripts, for light and dark mode and print."""

from typing import Any

from markupsafe import Markup

from gcnet.comparison.figures import cost_svg, curves_svg, score_svg
from gcnet.comparison.results import BASELINE, CONTROL, Comparison, Cost
from gcnet.comparison.summary import conclusion, control_rows, headings, notes, score_headings, table_rows
from gcnet.visualization.pages import render_page

_COSTS = (
    ("Parameters", "parameters", 1e3, "k"),
    ("FLOPs per image", "flops", 1e9, "GFLOPs"),
    ("Training step", "step_seconds_median", 1e-3, "ms"),
    ("Peak memory of a training step", "peak_memory_bytes", 1e6, "MB"),
)


def render_comparison(comparison: Comparison) -> str:
    """Return the page of `comparison` as HTML text."""
    has_control = bool(comparison.tested(CONTROL))
    return render_page(
        "comparison.html",
        title=f"Blocks compared on {comparison.data}",
        subtitle=_subtitle(comparison),
        summary=conclusion(comparison),
        score_title=comparison.score.title,
        scores=_score_charts(comparison),
        score_caption=_score_caption(comparison),
        tables=_tables(comparison, has_control=has_control),
        notes=notes(comparison),
        costs=[Markup(chart) for chart in _cost_charts(comparison) if chart],
        curves=Markup(curves_svg(comparison)),
        curves_caption=_curves_caption(comparison),
        images=comparison.pictures,
        facts={"Settings": comparison.about, "Environment": _environment(comparison)},
    )


def _subtitle(comparison: Comparison) -> str:
    seeds = f"{len(comparison.seeds)} seeds" if len(comparison.seeds) > 1 else "one seed"
    return f"{comparison.model}, {len(comparison.tested())} variants, {seeds}, {comparison.created}"


def _environment(comparison: Comparison) -> dict[str, str]:
    return {**comparison.environment, "date": comparison.created}


def _score_charts(comparison: Comparison) -> list[dict[str, Any]]:
    charts = [{"heading": "", "svg": Markup(score_svg(comparison))}]
    if comparison.tested(CONTROL):
        heading = f"Control setting ({comparison.control_data}): no context needed"
        charts.append({"heading": heading, "svg": Markup(score_svg(comparison, CONTROL))})
    return charts


def _score_caption(comparison: Comparison) -> str:
    points = comparison.score.points
    has_baseline = BASELINE in comparison.tested()
    if len(comparison.seeds) == 1:
        difference = f" Dashed: no block. Right: difference to it in {points}." if has_baseline else ""
        return f"Each dot is one run.{difference}"
    difference = (
        f" Dashed: mean without block. Right: paired difference to it in {points}, \N{PLUS-MINUS SIGN} the half-width "
        "of its 95 % interval."
    )
    bars = "Dots: seeds. Vertical bar: their mean. Pale band: one standard deviation to each side."
    return bars + difference * has_baseline


def _curves_caption(comparison: Comparison) -> str:
    over = ": mean over seeds, and range from the lowest to the highest" if len(comparison.seeds) > 1 else ""
    return f"Validation {comparison.score.name} at each evaluation{over}."


def _tables(comparison: Comparison, *, has_control: bool) -> list[dict[str, Any]]:
    tables = [{"heading": "", "headings": headings(comparison.scores), "rows": table_rows(comparison)}]
    if has_control:
        first = score_headings(comparison.scores)
        tables.append({"heading": "Control setting", "headings": first, "rows": control_rows(comparison)})
    return tables


def _cost_charts(comparison: Comparison) -> list[str]:
    costs: dict[str, Cost] = {
        block: comparison.costs[block] for block in comparison.tested() if block in comparison.costs
    }
    charts = []
    for title, name, unit, symbol in _COSTS:
        values = {block: getattr(cost, name) for block, cost in costs.items()}
        known = {block: value / unit for block, value in values.items() if value is not None}
        charts.append(cost_svg(comparison, title, known, symbol))
    return charts
