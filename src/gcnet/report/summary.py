"""The results in words and in a Markdown table, computed from the numbers and from nothing else."""

from collections.abc import Sequence

from gcnet.analysis.statistics import wilson_interval
from gcnet.report.results import BASELINE, CONTROL, MAIN, Comparison, Cost

HEADINGS = (
    "block",
    "top-1 (%)",
    "against none (points)",
    "parameters",
    "GFLOPs",
    "forward (ms)",
    "training step (ms)",
    "peak memory (MB)",
)


def table_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """One row of text a block, under `HEADINGS`."""
    return [
        (block, accuracy_text(comparison, block), difference_text(comparison, block), *cost_texts(comparison, block))
        for block in comparison.tested()
    ]


def control_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """One row of text a block of the control setting, under the first three of `HEADINGS`."""
    return [
        (block, accuracy_text(comparison, block, CONTROL), difference_text(comparison, block, CONTROL))
        for block in comparison.tested(CONTROL)
    ]


def markdown(comparison: Comparison) -> str:
    """The tables, the reading and what is needed to judge them, as a Markdown document."""
    parts = [f"# Blocks compared on {comparison.data}", reading(comparison)]
    parts.append(markdown_table(HEADINGS, table_rows(comparison)))
    if comparison.tested(CONTROL):
        parts.append(f"Control setting ({comparison.control_data}), where no context is needed:")
        parts.append(markdown_table(HEADINGS[:3], control_rows(comparison)))
    parts.append("\n".join(f"* {note}" for note in notes(comparison)))
    facts = {**comparison.about, **comparison.environment, "date": comparison.created}
    parts.append("\n".join(f"* {name}: {value}" for name, value in facts.items()))
    return "\n\n".join(parts) + "\n"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right, padded so that it reads as plain text."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[column]) for row in escaped) for column in range(len(headings))]
    rule = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines = [escaped[0], rule, *escaped[1:]]
    return "\n".join(f"| {' | '.join(_aligned(line, widths))} |" for line in lines)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]


def accuracy_text(comparison: Comparison, block: str, setting: str = MAIN) -> str:
    """Mean and standard deviation over seeds, in percent."""
    found = comparison.accuracy(block, setting)
    spread = "" if found.deviation is None else f" ± {100 * found.deviation:.1f}"
    return f"{100 * found.mean:.1f}{spread}"


def difference_text(comparison: Comparison, block: str, setting: str = MAIN) -> str:
    """Paired difference to no block with the half-width of its 95 % interval, in percentage points."""
    found = comparison.difference(block, setting)
    if found is None:
        return "-"
    return f"{100 * found.difference:+.1f}" + ("" if found.half_width is None else f" ± {100 * found.half_width:.1f}")


def cost_texts(comparison: Comparison, block: str) -> tuple[str, ...]:
    """Parameters, GFLOPs, forward and step time (medians) and peak memory; dashes where they were not measured."""
    cost = comparison.costs.get(block)
    if cost is None:
        return ("-",) * 5
    memory = "-" if cost.peak_memory is None else f"{cost.peak_memory / 1e6:.0f}"
    return (
        f"{cost.parameters:,}",
        _significant(cost.flops / 1e9),
        f"{1e3 * cost.forward_median:.1f}",
        f"{1e3 * cost.step_median:.1f}",
        memory,
    )


def reading(comparison: Comparison) -> str:
    """What the numbers say, and what they cannot say, in one or two sentences."""
    if not comparison.of(BASELINE):
        best = max(comparison.tested(), key=lambda block: comparison.accuracy(block).mean)
        return (
            f"On {comparison.data}, {best} has the highest mean top-1 "
            f"({accuracy_text(comparison, best)} %); without {BASELINE} among the blocks, no gain over it can be told."
        )
    others = [block for block in comparison.tested() if block != BASELINE]
    sentences = [_main_reading(comparison, others)] if others else [_alone(comparison)]
    controlled = [block for block in comparison.tested(CONTROL) if block != BASELINE]
    if controlled and comparison.of(BASELINE, CONTROL):
        sentences.append(_control_reading(comparison, controlled))
    return " ".join(sentences)


def notes(comparison: Comparison) -> list[str]:
    """How to read the columns: what the spread is, what is paired, what is counted."""
    count = len(comparison.seeds)
    found = [_seed_note(comparison, count)]
    images = sorted({run.images for run in comparison.runs if run.setting == MAIN})
    low, high = _image_interval(comparison)
    found.append(
        f"Accuracy is that of the last epoch's weights on {images[0]:,} validation images; that many images alone leave "
        f"{100 * low:.1f} to {100 * high:.1f} % open for a run that scores like {comparison.tested()[0]} (Wilson, 95 %)."
    )
    skipped = sum(run.skipped for run in comparison.runs)
    if skipped:
        found.append(f"{skipped} unreadable validation images were left out, over all runs.")
    if comparison.costs:
        found.extend(_cost_notes(comparison))
    return found


def relative_step_time(comparison: Comparison, block: str) -> float | None:
    """Median time of a training step over that of no block; None where one of them was not measured."""
    baseline: Cost | None = comparison.costs.get(BASELINE)
    cost = comparison.costs.get(block)
    return None if baseline is None or cost is None else cost.step_median / baseline.step_median


def _main_reading(comparison: Comparison, others: list[str]) -> str:
    best = max(others, key=lambda block: comparison.accuracy(block).mean)
    base = f"{accuracy_text(comparison, BASELINE)} % without a block"
    gain = f"{best} has the highest top-1 with {accuracy_text(comparison, best)} % against {base}"
    if len(comparison.seeds) == 1:
        return (
            f"On {comparison.data}, {gain} ({difference_text(comparison, best)} points): one seed, so no spread can be "
            "given and the order of the blocks may be chance."
        )
    above = [block for block in others if _seen(comparison, block, MAIN) and _gain(comparison, block) > 0]
    below = [block for block in others if _seen(comparison, block, MAIN) and _gain(comparison, block) < 0]
    level = [block for block in others if not _seen(comparison, block, MAIN)]
    clauses = [
        f"{_listing(comparison, blocks)} {verdict}"
        for blocks, verdict in (
            (above, "beyond what seeds explain, above no block"),
            (below, "beyond what seeds explain, below no block"),
            (level, "not told apart from no block by these seeds"),
        )
        if blocks
    ]
    return f"On {comparison.data}, over {len(comparison.seeds)} seeds, {gain}; {'; '.join(clauses)}."


def _control_reading(comparison: Comparison, blocks: list[str]) -> str:
    found = _listing(comparison, blocks, CONTROL)
    start = f"In the control setting, where no context is needed, the difference is: {found}"
    if len(comparison.seeds) == 1:
        return f"{start} (one seed)."
    seen = [block for block in blocks if _seen(comparison, block, CONTROL)]
    if seen:
        verb = "differs" if len(seen) == 1 else "differ"
        return f"{start}; {', '.join(seen)} {verb} from no block there too, beyond what seeds explain."
    return f"{start}; that is within what these seeds leave open."


def _alone(comparison: Comparison) -> str:
    return f"On {comparison.data}, the network without a block has a top-1 of {accuracy_text(comparison, BASELINE)} %."


def _listing(comparison: Comparison, blocks: list[str], setting: str = MAIN) -> str:
    return ", ".join(f"{block} ({difference_text(comparison, block, setting)})" for block in blocks)


def _seen(comparison: Comparison, block: str, setting: str) -> bool:
    found = comparison.difference(block, setting)
    return found is not None and found.is_seen is True


def _gain(comparison: Comparison, block: str) -> float:
    found = comparison.difference(block)
    return 0.0 if found is None else found.difference


def _seed_note(comparison: Comparison, count: int) -> str:
    if count == 1:
        return (
            f"One seed ({comparison.seeds[0]}): no spread can be given, nor the smallest difference that the experiment "
            "could have shown; use --seeds 3 or more for that."
        )
    found = [comparison.difference(block) for block in comparison.tested()]
    widths = [item.half_width for item in found if item is not None and item.half_width is not None]
    shown = (
        f" The smallest difference this experiment could have shown is that half-width: {100 * min(widths):.1f} to "
        f"{100 * max(widths):.1f} points here."
        if widths
        else ""
    )
    return (
        f"± after an accuracy is the standard deviation over {count} seeds; ± after a difference is the half-width of "
        f"the 95 % t-interval of the {count} differences to none, taken seed by seed (same seed, same data order), not corrected for looking at several blocks.{shown}"
    )


def _image_interval(comparison: Comparison) -> tuple[float, float]:
    run = comparison.of(comparison.tested()[0])[0]
    return wilson_interval(round(run.top1 * run.images), run.images)


def _cost_notes(comparison: Comparison) -> list[str]:
    timing = comparison.timing
    convention = (
        "GFLOPs are of one image of this size and count a multiply-add as two, as torch.utils.flop_counter does; papers "
        "on vision networks print multiply-adds under that name, half of this number."
    )
    measured = (
        f"Times are medians of {timing['repetitions']} repetitions on a batch of {timing['batch']} images, the blocks "
        "taking turns in one process, with weights that are not zero; peak memory is what one training step of "
        f"{timing['memory_batch']} images takes beyond the built model, in a fresh process."
    )
    wrong = [
        block
        for block, cost in comparison.costs.items()
        if cost.analytic_flops is not None and cost.analytic_flops != cost.added_flops
    ]
    found = [convention, measured]
    if wrong:
        found.append(f"The counted FLOPs differ from the formula of the block for: {', '.join(wrong)}.")
    return found


def _significant(value: float) -> str:
    return f"{value:.3f}" if value >= 0.1 else f"{value:.3g}"
