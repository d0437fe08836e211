"""The results in words and in a Markdown table, computed from the numbers and from nothing else."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gcnet.analysis.statistics import wilson_interval
from gcnet.report.results import BASELINE, CONTROL, MAIN, Comparison, Cost, Run

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


def terminal_text(comparison: Comparison) -> str:
    """The tables, what they say and how to read the spreads, for a terminal."""
    parts = [markdown_table(HEADINGS, table_rows(comparison))]
    if comparison.tested(CONTROL):
        parts.append(f"Control setting ({comparison.control_data}):")
        parts.append(markdown_table(HEADINGS[:3], control_rows(comparison)))
    return "\n\n".join([*parts, reading(comparison), notes(comparison)[0]])


def markdown_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] | None = None
) -> str:
    """A Markdown table, padded to read as plain text; `right` are the columns set to the right (all but the first)."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    columns = [
        _Column(
            max(len(row[index]) for row in escaped),
            is_right=index > 0 if right is None else heading in right,
        )
        for index, heading in enumerate(headings)
    ]
    rule = [column.rule() for column in columns]
    lines = [[column.set(cell) for column, cell in zip(columns, row, strict=True)] for row in escaped]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


@dataclass(frozen=True)
class _Column:
    width: int
    is_right: bool

    def set(self, cell: str) -> str:
        return cell.rjust(self.width) if self.is_right else cell.ljust(self.width)

    def rule(self) -> str:
        return "-" * (self.width - 1) + (":" if self.is_right else "-")


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
    return signed(found.difference) + ("" if found.half_width is None else f" ± {100 * found.half_width:.1f}")


def signed(fraction: float) -> str:
    """A difference in percentage points, with its sign but for zero."""
    points = round(100 * fraction, 1)
    return f"{points:+.1f}" if points else "0.0"


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
    low, high = _image_interval(comparison.of(comparison.tested()[0])[0])
    found.append(
        f"Accuracy is that of the last epoch's weights on {images[0]:,} validation images; that many images alone "
        f"leave {100 * low:.1f} to {100 * high:.1f} % open for a run that scores like {comparison.tested()[0]} "
        "(Wilson, 95 %)."
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
    gain = (
        f"{best} has the highest top-1 of the blocks with {accuracy_text(comparison, best)} % against "
        f"{accuracy_text(comparison, BASELINE)} % without a block"
    )
    if len(comparison.seeds) == 1:
        return (
            f"On {comparison.data}, {gain} ({difference_text(comparison, best)} points, where the validation images "
            f"alone leave ± {100 * _image_noise(comparison, best):.1f} open); with one seed no spread can be given, "
            "and the order of blocks that lie close together may be chance."
        )
    seen = {block: _seen(comparison, block, MAIN) for block in others}
    groups = (
        ("above no block beyond the spread over seeds", [b for b in others if seen[b] and _gain(comparison, b) > 0]),
        ("below no block beyond the spread over seeds", [b for b in others if seen[b] and _gain(comparison, b) < 0]),
        ("not told apart from no block by these seeds", [b for b in others if not seen[b]]),
    )
    verdicts = "; ".join(f"{verdict}: {_listing(comparison, blocks)}" for verdict, blocks in groups if blocks)
    return f"On {comparison.data}, over {len(comparison.seeds)} seeds, {gain}; {verdicts}."


def _control_reading(comparison: Comparison, blocks: list[str]) -> str:
    start = (
        "In the control setting, where no context is needed, the difference to no block "
        f"({accuracy_text(comparison, BASELINE, CONTROL)} %), in points, is: {_listing(comparison, blocks, CONTROL)}"
    )
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
    intervals = [_image_interval(comparison.of(name, setting)[0]) for name in (block, BASELINE)]
    return math.hypot(*((high - low) / 2 for low, high in intervals))


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
            f"One seed ({comparison.seeds[0]}): no spread can be given, nor the smallest difference that the "
            "experiment could have shown; use --seeds 3 or more for that."
        )
    found = [comparison.difference(block) for block in comparison.tested()]
    widths = [item.half_width for item in found if item is not None and item.half_width is not None]
    low, high = (f"{100 * bound:.1f}" for bound in (min(widths, default=0), max(widths, default=0)))
    paired = (
        f"; ± after a difference is the half-width of the 95 % t-interval of the {count} differences to none, taken "
        "seed by seed (same seed, same data order) and not corrected for looking at several blocks. The smallest "
        "difference this experiment could have shown is that half-width: "
        f"{low if low == high else f'{low} to {high}'} points here"
    )
    return f"± after an accuracy is the standard deviation over {count} seeds{paired if widths else ''}."


def _image_interval(run: Run) -> tuple[float, float]:
    return wilson_interval(round(run.top1 * run.images), run.images)


def _cost_notes(comparison: Comparison) -> list[str]:
    timing = comparison.timing
    convention = (
        "GFLOPs are of one image of this size and count a multiply-add as two, as torch.utils.flop_counter does; "
        "papers on vision networks print multiply-adds under that name, half of this number."
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
