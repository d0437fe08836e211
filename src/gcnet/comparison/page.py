"""HTML page of a comparison: self-contained, without scripts or network access, light and dark."""

from collections.abc import Mapping, Sequence
from html import escape

from gcnet.comparison.charts import cost_chart, curves_chart, score_chart
from gcnet.comparison.notes import notes
from gcnet.comparison.results import CONTROL, Comparison, Cost
from gcnet.comparison.summary import control_rows, headings, reading, score_headings, table_rows

_STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #ffffff; --ink: #1c2026; --soft: #5c6470; --line: #e3e5e8;
  --accent: #0b6e99; --accent-page: #eaf4f8; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1c2026; --ink: #e8eaed; --soft: #a2aab5;
  --line: #333a43; --accent: #6cc5ea; --accent-page: #17303b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 40px 0 12px; }
h3 { font-size: 15px; margin: 22px 0 8px; }
.under { color: var(--soft); margin: 0 0 24px; }
.reading { background: var(--accent-page); border-left: 4px solid var(--accent); border-radius: 6px; padding: 14px 18px;
  margin: 0 0 8px; font-size: 17px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
  overflow-x: auto; }
.costs { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 14px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td:first-child { font-weight: 600; }
tbody tr:last-child td { border-bottom: 0; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
svg .tick { fill: var(--soft); font-size: 12px; }
svg .value { fill: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
svg .heading { font-weight: 600; }
svg .grid { stroke: var(--line); }
svg .reference { stroke: var(--soft); stroke-dasharray: 4 4; }
figure { margin: 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 12px; }
.pictures img { width: 100%; image-rendering: pixelated; border-radius: 6px; display: block; }
.pictures figcaption, .caption { color: var(--soft); font-size: 13px; }
dl { display: grid; grid-template-columns: minmax(110px, max-content) 1fr; gap: 4px 18px; margin: 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
ul { padding-left: 20px; margin: 12px 0 0; font-size: 14px; color: var(--soft); }
"""


def render_page(comparison: Comparison) -> str:
    """The whole page as HTML text."""
    title = f"Blocks compared on {comparison.data}"
    sections = [
        f'<h1>{escape(title)}</h1><p class="under">{escape(_subtitle(comparison))}</p>',
        f'<p class="reading">{escape(reading(comparison))}</p>',
        _section(comparison.score.title, _scores(comparison)),
        _section("All numbers", _numbers(comparison)),
        _section("Cost", _costs(comparison)),
        _section("Learning curves", _curves(comparison)),
        _section("Validation images", _pictures(comparison)),
        _section("How it was measured", _card(_definitions(comparison.about))),
        _section("Where it was measured", _card(_definitions({**comparison.environment, "date": comparison.created}))),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def _subtitle(comparison: Comparison) -> str:
    seeds = f"{len(comparison.seeds)} seeds" if len(comparison.seeds) > 1 else "one seed"
    return f"{comparison.model}, {len(comparison.tested())} variants, {seeds}, {comparison.created}"


def _scores(comparison: Comparison) -> str:
    points = comparison.score.points
    caption = (
        "Each dot is one seed, the upright bar their mean, the pale band one standard deviation to each side; the "
        f"dashed line is no block, the number at the right the paired difference to it in {points}, "
        "± half its 95 % interval."
        if len(comparison.seeds) > 1
        else "One seed: each dot is one run. The dashed line is no block, the number at the right the difference to it "
        f"in {points}."
    )
    parts = [score_chart(comparison)]
    if comparison.tested(CONTROL):
        parts.append(f"<h3>Control setting ({escape(comparison.control_data or '')}): no context is needed</h3>")
        parts.append(score_chart(comparison, CONTROL))
    return _card("".join(parts) + f'<p class="caption">{caption}</p>')


def _numbers(comparison: Comparison) -> str:
    tables = _table(headings(comparison.scores), table_rows(comparison))
    if comparison.tested(CONTROL):
        tables += "<h3>Control setting</h3>" + _table(score_headings(comparison.scores), control_rows(comparison))
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes(comparison))
    return _card(tables) + f"<ul>{listed}</ul>"


def _costs(comparison: Comparison) -> str:
    def of(pick: str, scale: float) -> list[tuple[str, float | None]]:
        found: list[tuple[str, float | None]] = []
        for block in comparison.tested():
            cost: Cost | None = comparison.costs.get(block)
            value = None if cost is None else getattr(cost, pick)
            found.append((block, None if value is None else value / scale))
        return found

    charts = [
        cost_chart(comparison, title, dict(of(pick, scale)).get, unit)
        for title, pick, scale, unit in (
            ("Parameters", "parameters", 1e3, "k"),
            ("Arithmetic of one image", "flops", 1e9, "GFLOPs"),
            ("Training step", "step_seconds_median", 1e-3, "ms"),
            ("Peak memory of a training step", "peak_memory_bytes", 1e6, "MB"),
        )
    ]
    shown = "".join(_card(chart) for chart in charts if chart)
    return f'<div class="costs">{shown}</div>' if shown else ""


def _curves(comparison: Comparison) -> str:
    chart = curves_chart(comparison)
    name = comparison.score.name
    caption = f"Validation {name} at each evaluation: mean over seeds, and the range from the lowest to the highest."
    return _card(f'{chart}<p class="caption">{caption}</p>') if chart else ""


def _pictures(comparison: Comparison) -> str:
    if not comparison.pictures:
        return ""
    figures = "".join(
        f'<figure><img alt="{escape(picture.label)}" src="data:image/png;base64,{picture.png}">'
        f"<figcaption>{escape(picture.label)}</figcaption></figure>"
        for picture in comparison.pictures
    )
    return _card(f'<div class="pictures">{figures}</div>')


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _definitions(facts: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in facts.items())}</dl>"


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>{content}" if content else ""


def _card(content: str) -> str:
    return f'<div class="card">{content}</div>'
