"""Summary of the results in words and as a Markdown table."""

import math
from collections.abc import Sequence

from gcnet.comparison.notes import notes
from gcnet.comparison.results import BASELINE, CONTROL, MAIN, Comparison, Cost
from gcnet.tasks.base import Score
from gcnet.text_files import markdown_table

_COSTS = ("parameters", "GFLOPs", "forward (ms)", "training step (ms)", "peak memory (MB)")


def score_headings(scores: Sequence[Score]) -> tuple[str, ...]:
    """The columns of a table without costs: the score that decides, its differences, and the other scores."""
    first, *others = scores
    return "block", first.heading, f"against none ({first.points})", *(score.heading for score in others)


def headings(scores: Sequence[Score]) -> tuple[str, ...]:
    """The columns of a table of `table_rows`."""
    return *score_headings(scores), *_COSTS


def table_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """One row of text a block, under `headings` of its scores."""
    return [(*_score_cells(comparison, block, MAIN), *cost_cells(comparison, block)) for block in comparison.tested()]


def control_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """One row of text a block of the control setting, under `score_headings` of its scores."""
    return [_score_cells(comparison, block, CONTROL) for block in comparison.tested(CONTROL)]


def _score_cells(comparison: Comparison, block: str, setting: str) -> tuple[str, ...]:
    first, *others = (score_cell(comparison, block, setting, score=score) for score in comparison.scores)
    return block, first, difference_cell(comparison, block, setting), *others


def markdown(comparison: Comparison) -> str:
    """The tables, the reading and what is needed to judge them, as a Markdown document."""
    parts = [f"# Blocks compared on {comparison.data}", conclusion(comparison)]
    parts.append(markdown_table(headings(comparison.scores), table_rows(comparison)))
    if comparison.tested(CONTROL):
        parts.append(f"Control setting ({comparison.control_data}), where no context is needed:")
        parts.append(markdown_table(score_headings(comparison.scores), control_rows(comparison)))
    parts.append("\n".join(f"* {note}" for note in notes(comparison)))
    facts = {**comparison.about, **comparison.environment, "date": comparison.created}
    parts.append("\n".join(f"* {name}: {value}" for name, value in facts.items()))
    return "\n\n".join(parts) + "\n"


def terminal_text(comparison: Comparison) -> str:
    """The tables, what they say and how to read the spreads, for a terminal."""
    parts = [markdown_table(headings(comparison.scores), table_rows(comparison))]
    if comparison.tested(CONTROL):
        parts.append(f"Control setting ({comparison.control_data}):")
        parts.append(markdown_table(score_headings(comparison.scores), control_rows(comparison)))
    return "\n\n".join([*parts, conclusion(comparison), notes(comparison)[0]])


def score_cell(comparison: Comparison, block: str, setting: str = MAIN, *, score: Score | None = None) -> str:
    """Mean and standard deviation of a score over seeds, times 100; by default of the one that decides."""
    found = comparison.result(block, setting, score=score)
    spread = "" if found.deviation is None else f" ± {100 * found.deviation:.1f}"
    return f"{100 * found.mean:.1f}{spread}"


def difference_cell(comparison: Comparison, block: str, setting: str = MAIN) -> str:
    """Paired difference to no block with the half-width of its 95 % interval, times 100."""
    found = comparison.difference(block, setting)
    if found is None:
        return "-"
    return signed(found.difference) + ("" if found.half_width is None else f" ± {100 * found.half_width:.1f}")


def signed(fraction: float) -> str:
    """A difference times 100, with its sign but for zero."""
    points = round(100 * fraction, 1)
    return f"{points:+.1f}" if points else "0.0"


def cost_cells(comparison: Comparison, block: str) -> tuple[str, ...]:
    """Parameters, GFLOPs, forward and step time (medians) and peak memory; dashes where they were not measured."""
    cost = comparison.costs.get(block)
    if cost is None:
        return ("-",) * 5
    memory = "-" if cost.peak_memory_bytes is None else f"{cost.peak_memory_bytes / 1e6:.0f}"
    return (
        f"{cost.parameters:,}",
        _significant(cost.flops / 1e9),
        f"{1e3 * cost.forward_seconds_median:.1f}",
        f"{1e3 * cost.step_seconds_median:.1f}",
        memory,
    )


def conclusion(comparison: Comparison) -> str:
    """What the numbers say, and what they cannot say, in one or two sentences."""
    if not comparison.of(BASELINE):
        best = _best(comparison, comparison.tested())
        return (
            f"On {comparison.data}, {best} has the highest mean {comparison.score.name} "
            f"({_value(comparison, best)}); without {BASELINE} among the blocks, no gain over it can be told."
        )
    others = [block for block in comparison.tested() if block != BASELINE]
    sentences = [_main_reading(comparison, others)] if others else [_alone(comparison)]
    controlled = [block for block in comparison.tested(CONTROL) if block != BASELINE]
    if controlled and comparison.of(BASELINE, CONTROL):
        sentences.append(_control_reading(comparison, controlled))
    return " ".join(sentences)


def relative_step_time(comparison: Comparison, block: str) -> float | None:
    """Median time of a training step over that of no block; None where one of them was not measured."""
    baseline: Cost | None = comparison.costs.get(BASELINE)
    cost = comparison.costs.get(block)
    return None if baseline is None or cost is None else cost.step_seconds_median / baseline.step_seconds_median


def _main_reading(comparison: Comparison, others: list[str]) -> str:
    best = _best(comparison, others)
    gain = (
        f"{best} has the highest {comparison.score.name} of the blocks with {_value(comparison, best)} against "
        f"{_value(comparison, BASELINE)} without a block"
    )
    if len(comparison.seeds) == 1:
        return f"On {comparison.data}, {gain} {_one_seed_reading(comparison, best)}"
    seen = {block: _seen(comparison, block, MAIN) for block in others}
    groups = (
        ("above no block beyond the spread over seeds", [b for b in others if seen[b] and _gain(comparison, b) > 0]),
        ("below no block beyond the spread over seeds", [b for b in others if seen[b] and _gain(comparison, b) < 0]),
        ("not told apart from no block by these seeds", [b for b in others if not seen[b]]),
    )
    verdicts = "; ".join(f"{verdict}: {_listing(comparison, blocks)}" for verdict, blocks in groups if blocks)
    return f"On {comparison.data}, over {len(comparison.seeds)} seeds, {gain}; {verdicts}."


def _one_seed_reading(comparison: Comparison, best: str) -> str:
    score, difference = comparison.score, difference_cell(comparison, best)
    chance = "and the order of blocks that lie close together may be chance."
    if not score.is_share:
        return f"({difference} {score.points}); with one seed no uncertainty can be given, {chance}"
    noise = f"where the validation images alone leave ± {100 * _image_noise(comparison, best):.1f} open"
    return f"({difference} {score.points}, {noise}); with one seed no spread can be given, {chance}"


def _control_reading(comparison: Comparison, blocks: list[str]) -> str:
    score = comparison.score
    start = (
        "In the control setting, where no context is needed, the difference to no block "
        f"({_value(comparison, BASELINE, CONTROL)}), in {score.points}, is: {_listing(comparison, blocks, CONTROL)}"
    )
    if len(comparison.seeds) == 1 and not score.is_share:
        return f"{start}, of one seed, so that no uncertainty can be given."
    if len(comparison.seeds) == 1:
        noise = max(_image_noise(comparison, block, CONTROL) for block in blocks)
        return f"{start}, where the images alone leave ± {100 * noise:.1f} open."
    seen = [block for block in blocks if _seen(comparison, block, CONTROL)]
    if seen:
        return f"{start}, which for {', '.join(seen)} is beyond the spread over seeds there too."
    return f"{start}, which is within what these seeds leave open."


def _image_noise(comparison: Comparison, block: str, setting: str = MAIN) -> float:
    """How far the images alone leave a difference of two runs open, at 95 %: half of both Wilson intervals, combined.

    Newcombe, Statistics in Medicine 17 (1998), method 10, made symmetric: it stays above zero where both score 100 %.
    """
    intervals = [comparison.image_interval(name, setting) for name in (block, BASELINE)]
    return math.hypot(*((high - low) / 2 for low, high in intervals))


def _alone(comparison: Comparison) -> str:
    score = comparison.score
    return f"On {comparison.data}, the network without a block has a {score.name} of {_value(comparison, BASELINE)}."


def _best(comparison: Comparison, blocks: Sequence[str]) -> str:
    return max(blocks, key=lambda block: comparison.result(block).mean)


def _value(comparison: Comparison, block: str, setting: str = MAIN) -> str:
    return score_cell(comparison, block, setting) + comparison.score.unit


def _listing(comparison: Comparison, blocks: list[str], setting: str = MAIN) -> str:
    return ", ".join(f"{block} ({difference_cell(comparison, block, setting)})" for block in blocks)


def _seen(comparison: Comparison, block: str, setting: str) -> bool:
    found = comparison.difference(block, setting)
    return found is not None and found.is_seen is True


def _gain(comparison: Comparison, block: str) -> float:
    found = comparison.difference(block)
    return 0.0 if found is None else found.difference


def _significant(value: float) -> str:
    return f"{value:.3f}" if value >= 0.1 else f"{value:.3g}"
