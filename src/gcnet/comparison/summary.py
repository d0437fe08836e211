"""Summary of the results: Markdown tables, conclusion and notes."""

import math
from collections.abc import Sequence

from gcnet.comparison.results import BASELINE, CONTROL, MAIN, Comparison, Cost
from gcnet.tasks.registry import task_of
from gcnet.tasks.scores import Score
from gcnet.text_files import markdown_table

_COSTS = ("parameters", "GFLOPs", "forward (ms)", "training step (ms)", "peak memory (MB)")


def score_headings(scores: Sequence[Score]) -> tuple[str, ...]:
    """Return the column headings of a table without costs: first score, its differences, other `scores`."""
    first, *others = scores
    return "block", first.heading, f"difference ({first.points})", *(score.heading for score in others)


def headings(scores: Sequence[Score]) -> tuple[str, ...]:
    """Return the column headings of `table_rows` for `scores`."""
    return *score_headings(scores), *_COSTS


def table_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return one row of cells per block of `comparison`, under `headings`."""
    return [(*_score_cells(comparison, block, MAIN), *cost_cells(comparison, block)) for block in comparison.tested()]


def control_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return one row of cells per block of the control setting of `comparison`, under `score_headings`."""
    return [_score_cells(comparison, block, CONTROL) for block in comparison.tested(CONTROL)]


def _score_cells(comparison: Comparison, block: str, setting: str) -> tuple[str, ...]:
    first, *others = (score_cell(comparison, block, setting, score=score) for score in comparison.scores)
    return block, first, difference_cell(comparison, block, setting), *others


def markdown(comparison: Comparison) -> str:
    """Return tables, conclusion, notes and conditions of `comparison` as a Markdown document."""
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
    """Return tables, conclusion and the note on the spread of `comparison` for a terminal."""
    parts = [markdown_table(headings(comparison.scores), table_rows(comparison))]
    if comparison.tested(CONTROL):
        parts.append(f"Control setting ({comparison.control_data}):")
        parts.append(markdown_table(score_headings(comparison.scores), control_rows(comparison)))
    return "\n\n".join([*parts, conclusion(comparison), notes(comparison)[0]])


def score_cell(comparison: Comparison, block: str, setting: str = MAIN, *, score: Score | None = None) -> str:
    """Format mean and standard deviation over seeds, times 100.

    Args:
        comparison: of the blocks.
        block: its name.
        setting: `MAIN` or `CONTROL`.
        score: default: the first.

    Returns:
        Such as "71.0 ± 1.0".
    """
    result = comparison.result(block, setting, score=score)
    spread = "" if result.deviation is None else f" ± {100 * result.deviation:.1f}"
    return f"{100 * result.mean:.1f}{spread}"


def difference_cell(comparison: Comparison, block: str, setting: str = MAIN) -> str:
    """Format the paired difference to the baseline with the half-width of its 95 % interval, times 100.

    Args:
        comparison: of the blocks.
        block: its name.
        setting: `MAIN` or `CONTROL`.

    Returns:
        Such as "+1.2 ± 0.8", or "-" for the baseline.
    """
    difference = comparison.difference(block, setting)
    if difference is None:
        return "-"
    interval = "" if difference.half_width is None else f" ± {100 * difference.half_width:.1f}"
    return f"{signed(difference.difference)}{interval}"


def signed(fraction: float) -> str:
    """Return `fraction` times 100 as text with its sign, except for zero."""
    points = round(100 * fraction, 1)
    return f"{points:+.1f}" if points else "0.0"


def cost_cells(comparison: Comparison, block: str) -> tuple[str, ...]:
    """Format the costs of a block.

    Args:
        comparison: of the blocks.
        block: its name.

    Returns:
        Parameters, GFLOPs, median forward and step time, peak memory; "-" if not measured.
    """
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
    """Return the conclusion of `comparison` and its limitations in one or two sentences."""
    if not comparison.of(BASELINE):
        best = _best(comparison, comparison.tested())
        return (
            f"On {comparison.data}, {best} has the highest mean {comparison.score.name} "
            f"({_value(comparison, best)}); there is no baseline ({BASELINE}) to compare with."
        )
    others = [block for block in comparison.tested() if block != BASELINE]
    sentences = [_main_reading(comparison, others)] if others else [_alone(comparison)]
    controlled = [block for block in comparison.tested(CONTROL) if block != BASELINE]
    if controlled and comparison.of(BASELINE, CONTROL):
        sentences.append(_control_reading(comparison, controlled))
    return " ".join(sentences)


def relative_step_time(comparison: Comparison, block: str) -> float | None:
    """Return the median time of a training step relative to the baseline.

    Args:
        comparison: of the blocks.
        block: its name.

    Returns:
        The ratio, None if a time was not measured.
    """
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
        ("significantly above the baseline", [b for b in others if seen[b] and _gain(comparison, b) > 0]),
        ("significantly below the baseline", [b for b in others if seen[b] and _gain(comparison, b) < 0]),
        ("no significant difference from the baseline", [b for b in others if not seen[b]]),
    )
    verdicts = "; ".join(f"{verdict}: {_listing(comparison, blocks)}" for verdict, blocks in groups if blocks)
    return f"On {comparison.data}, over {len(comparison.seeds)} seeds, {gain}; {verdicts}."


def _one_seed_reading(comparison: Comparison, best: str) -> str:
    score, difference = comparison.score, difference_cell(comparison, best)
    chance = "and small differences between blocks may be chance."
    if not score.is_share:
        return f"({difference} {score.points}); one seed gives no uncertainty, {chance}"
    noise = f"± {100 * _image_noise(comparison, best):.1f} from the number of validation images"
    return f"({difference} {score.points}, {noise}); one seed gives no standard deviation, {chance}"


def _control_reading(comparison: Comparison, blocks: list[str]) -> str:
    score = comparison.score
    start = (
        "In the control setting, where no context is needed, the difference to no block "
        f"({_value(comparison, BASELINE, CONTROL)}), in {score.points}, is: {_listing(comparison, blocks, CONTROL)}"
    )
    if len(comparison.seeds) == 1 and not score.is_share:
        return f"{start}; one seed gives no uncertainty."
    if len(comparison.seeds) == 1:
        noise = max(_image_noise(comparison, block, CONTROL) for block in blocks)
        return f"{start}; ± {100 * noise:.1f} from the number of validation images."
    seen = [block for block in blocks if _seen(comparison, block, CONTROL)]
    if seen:
        return f"{start}; significant for {', '.join(seen)}."
    return f"{start}; none is significant."


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
    difference = comparison.difference(block, setting)
    return difference is not None and difference.is_seen is True


def _gain(comparison: Comparison, block: str) -> float:
    difference = comparison.difference(block)
    return 0.0 if difference is None else difference.difference


def _significant(value: float) -> str:
    return f"{value:.3f}" if value >= 0.1 else f"{value:.3g}"


def notes(comparison: Comparison) -> list[str]:
    """Return notes on the columns of `comparison`: spread, paired differences, counted costs."""
    count = len(comparison.seeds)
    lines = [_seed_note(comparison, count), _image_note(comparison)]
    skipped = sum(run.skipped for run in comparison.runs)
    if skipped:
        lines.append(f"{skipped} unreadable validation images were skipped, over all runs.")
    if comparison.costs:
        lines.extend(_cost_notes(comparison))
    return lines


def _seed_note(comparison: Comparison, count: int) -> str:
    score = comparison.score
    if count == 1:
        return (
            f"One seed ({comparison.seeds[0]}): no {'standard deviation' if score.is_share else 'uncertainty'} and no "
            "minimum detectable difference; train with 3 seeds or more for both."
        )
    differences = [comparison.difference(block) for block in comparison.tested()]
    widths = [item.half_width for item in differences if item is not None and item.half_width is not None]
    low, high = (f"{100 * bound:.1f}" for bound in (min(widths, default=0), max(widths, default=0)))
    paired = (
        f"; ± of a difference is the half-width of the 95 % t-interval of the {count} paired differences to none "
        "(same seed and data order), not corrected for multiple comparisons. This half-width is the minimum detectable "
        "difference: "
        f"{low if low == high else f'{low} to {high}'} {score.points}"
    )
    return f"± after a {score.label} is the standard deviation over {count} seeds{paired if widths else ''}."


def _image_note(comparison: Comparison) -> str:
    """Describe the scores, and for accuracies the uncertainty of their number of images."""
    first = comparison.tested()[0]
    images = f"{min(run.images for run in comparison.runs if run.setting == MAIN):,} validation images"
    if not comparison.score.is_share:
        names = " and ".join((comparison.score.title, *(score.name for score in comparison.scores[1:])))
        return task_of(comparison.model).describe_scores(names, images)
    low, high = comparison.image_interval(first)
    return (
        f"Accuracy is that of the last epoch's weights on {images}; 95 % Wilson interval "
        f"of {first} for this number of images: {100 * low:.1f} to {100 * high:.1f} %."
    )


def _cost_notes(comparison: Comparison) -> list[str]:
    timing = comparison.timing
    costs = task_of(comparison.model).costs
    convention = (
        f"GFLOPs are of one image of {costs.counted_image} and count a multiply-add as two, as "
        "torch.utils.flop_counter does; vision papers often report multiply-adds under this name, half of this number."
    )
    measured = (
        f"Times are medians of {timing['repetitions']} repetitions on a batch of {timing['batch_size']} "
        f"{costs.timed_input}, interleaved over the blocks in one process, with non-zero block weights; peak memory is "
        f"that of one training step of {timing['memory_batch_size']} images beyond the model, in a new process."
    )
    wrong = [
        block
        for block, cost in comparison.costs.items()
        if cost.analytic_flops is not None and cost.analytic_flops != cost.added_flops
    ]
    lines = [convention, measured]
    if wrong:
        lines.append(f"The counted FLOPs differ from the formula of the block for: {', '.join(wrong)}.")
    return lines
