"""Charts of the report page as inline SVG, in the colors of a light or dark page."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from gcnet.comparison.results import BASELINE, CONTROL, MAIN, Comparison, Run
from gcnet.comparison.summary import signed
from gcnet.visualization.style import BASELINE_COLOUR, COLOURS


@dataclass(frozen=True)
class Axis:
    """A linear map from values to pixels, with round ticks."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Up to about `count` round values within the axis."""
        step = round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def round_step(raw: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `raw`."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))


def colours(blocks: Sequence[str]) -> dict[str, str]:
    """A colour for each block, the same in every chart; grey for no block."""
    others = [block for block in blocks if block != BASELINE]
    found = {block: COLOURS[index % len(COLOURS)] for index, block in enumerate(others)}
    return {block: found.get(block, BASELINE_COLOUR) for block in blocks}


def score_axis(comparison: Comparison, start: float, end: float) -> Axis:
    """An axis that holds every run of every setting times 100, with some air, ending at 100 at most."""
    values = [100 * run.scores[comparison.score.column] for run in comparison.runs]
    air = max(0.12 * (max(values) - min(values)), 0.5)
    step = round_step((max(values) - min(values) + 2 * air) / 6)
    low = max(0.0, math.floor((min(values) - air) / step) * step)
    high = min(100.0, math.ceil((max(values) + air) / step) * step)
    return Axis(low, max(high, low + step), start, end)


def score_chart(comparison: Comparison, setting: str = MAIN) -> str:
    """One row a block: each seed a dot, their mean a bar, and how far it is from no block."""
    blocks = comparison.tested(setting)
    left, right, row = 190, 780, 40
    axis = score_axis(comparison, left, right)
    bottom = 12 + row * len(blocks)
    parts = [_vertical_grid(axis, 8, bottom, comparison.score.unit)]
    if BASELINE in blocks:
        at = axis(100 * comparison.result(BASELINE, setting).mean)
        parts.append(f'<line class="reference" x1="{at:.1f}" x2="{at:.1f}" y1="8" y2="{bottom}"/>')
    for index, block in enumerate(blocks):
        middle = 12 + row * index + row / 2
        parts.append(_score_row(comparison, setting, block, middle, axis))
    name = "control setting" if setting == CONTROL else "main setting"
    return _svg(930, bottom + 26, f"{comparison.score.title} by block, {name}", parts)


def cost_chart(comparison: Comparison, title: str, value: Callable[[str], float | None], unit: str) -> str:
    """Horizontal bars of one cost, from zero, with the ratio to no block behind each."""
    found = {block: value(block) for block in comparison.tested()}
    numbers = {block: number for block, number in found.items() if number is not None}
    if not numbers:
        return ""
    left, row, palette = 160, 26, colours(comparison.blocks)
    axis = Axis(0, max(numbers.values()) or 1, left, 270)
    parts = [f'<text class="heading" x="0" y="14">{escape(title)}</text>']
    for index, (block, number) in enumerate(numbers.items()):
        middle = 26 + row * index + row / 2
        width = max(axis(number) - left, 1)
        ratio = "" if not numbers.get(BASELINE) or block == BASELINE else f" ({number / numbers[BASELINE]:.2f}x)"
        parts.append(
            f'<text class="name" x="{left - 8}" y="{middle + 4}" text-anchor="end">{escape(block)}</text>'
            f'<rect x="{left}" y="{middle - 8}" width="{width:.1f}" height="16" rx="3" fill="{palette[block]}"/>'
            f'<text class="value" x="{left + width + 6:.1f}" y="{middle + 4}">{number:.4g} {unit}{ratio}</text>'
        )
    return _svg(440, 30 + row * len(numbers), title, parts)


def curves_chart(comparison: Comparison, setting: str = MAIN) -> str:
    """The score on validation images over epochs, the mean over seeds as a line and their range as a band."""
    blocks = comparison.tested(setting)
    palette = colours(comparison.blocks)
    column = comparison.score.column
    series = {block: _mean_curve(comparison.of(block, setting), column) for block in blocks}
    points = [point for curve in series.values() for point in curve]
    if len(points) < 2:
        return ""
    horizontal = Axis(0, max(point[0] for point in points), 56, 750)
    low, high = min(point[2] for point in points), max(point[3] for point in points)
    vertical = Axis(low - 0.05 * (high - low + 1), min(100, high + 0.05 * (high - low + 1)), 260, 14)
    parts = [_horizontal_grid(vertical, 56, 750, comparison.score.unit), _epoch_ticks(horizontal)]
    for block, curve in series.items():
        parts.append(_band(curve, horizontal, vertical, palette[block]))
    for block, curve in series.items():
        path = " ".join(f"{horizontal(x):.1f},{vertical(y):.1f}" for x, y, _, _ in curve)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{palette[block]}" stroke-width="2.2"/>')
    parts.append(_end_labels({block: curve[-1][1] for block, curve in series.items() if curve}, vertical, palette))
    return _svg(930, 302, f"Validation {comparison.score.name} over the epochs", parts)


def _score_row(comparison: Comparison, setting: str, block: str, middle: float, axis: Axis) -> str:
    colour = colours(comparison.blocks)[block]
    values, found = comparison.values(block, setting), comparison.result(block, setting)
    difference = comparison.difference(block, setting)
    at = axis(100 * found.mean)
    parts = [f'<text class="name" x="178" y="{middle + 4}" text-anchor="end">{escape(block)}</text>']
    if found.deviation is not None:
        low, high = axis(100 * (found.mean - found.deviation)), axis(100 * (found.mean + found.deviation))
        parts.append(
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="{colour}" stroke-width="7" '
            'stroke-linecap="round" opacity="0.35"/>'
        )
    parts += [f'<circle cx="{axis(100 * value):.1f}" cy="{middle}" r="4.5" fill="{colour}"/>' for value in values]
    parts.append(
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{middle - 11}" y2="{middle + 11}" stroke="{colour}" stroke-width="3"/>'
    )
    text = "" if difference is None else signed(difference.difference)
    if difference is not None and difference.half_width is not None:
        text += f" ± {100 * difference.half_width:.1f}"
    parts.append(f'<text class="value" x="796" y="{middle + 4}">{text}</text>')
    return "".join(parts)


def _mean_curve(runs: Sequence[Run], column: str) -> list[tuple[float, float, float, float]]:
    """(epoch, mean, lowest, highest) times 100, at the epochs that every seed was evaluated at."""
    measured = [{point.epoch: 100 * point.scores[column] for point in run.curve} for run in runs]
    shared = sorted(set.intersection(*(set(found) for found in measured))) if measured else []
    columns = [(epoch, [found[epoch] for found in measured]) for epoch in shared]
    return [(epoch, sum(values) / len(values), min(values), max(values)) for epoch, values in columns]


def _band(curve: Sequence[tuple[float, float, float, float]], horizontal: Axis, vertical: Axis, colour: str) -> str:
    upper = [f"{horizontal(x):.1f},{vertical(high):.1f}" for x, _, _, high in curve]
    lower = [f"{horizontal(x):.1f},{vertical(low):.1f}" for x, _, low, _ in reversed(curve)]
    return f'<polygon points="{" ".join(upper + lower)}" fill="{colour}" opacity="0.13"/>'


def _end_labels(ends: dict[str, float], vertical: Axis, palette: dict[str, str]) -> str:
    """Names at the ends of the lines, pushed apart where they would overlap."""
    parts, previous = [], -math.inf
    for block, value in sorted(ends.items(), key=lambda item: -item[1]):
        previous = max(vertical(value), previous + 15)
        parts.append(
            f'<circle cx="762" cy="{previous:.1f}" r="4.5" fill="{palette[block]}"/>'
            f'<text class="name" x="772" y="{previous + 4:.1f}">{escape(block)}</text>'
        )
    return "".join(parts)


def _vertical_grid(axis: Axis, top: float, bottom: float, unit: str) -> str:
    return "".join(
        f'<line class="grid" x1="{axis(tick):.1f}" x2="{axis(tick):.1f}" y1="{top}" y2="{bottom}"/>'
        f'<text class="tick" x="{axis(tick):.1f}" y="{bottom + 17}" text-anchor="middle">{tick:g}{unit}</text>'
        for tick in axis.ticks(6)
    )


def _horizontal_grid(axis: Axis, left: float, right: float, unit: str) -> str:
    return "".join(
        f'<line class="grid" x1="{left}" x2="{right}" y1="{axis(tick):.1f}" y2="{axis(tick):.1f}"/>'
        f'<text class="tick" x="{left - 8}" y="{axis(tick) + 4:.1f}" text-anchor="end">{tick:g}{unit}</text>'
        for tick in axis.ticks(5)
    )


def _epoch_ticks(axis: Axis) -> str:
    ticks = "".join(
        f'<text class="tick" x="{axis(tick):.1f}" y="278" text-anchor="middle">{tick:g}</text>'
        for tick in axis.ticks(8)
    )
    return f'{ticks}<text class="tick" x="403" y="297" text-anchor="middle">epoch</text>'


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}" '
        f'style="max-width:{width:g}px">{"".join(parts)}</svg>'
    )
