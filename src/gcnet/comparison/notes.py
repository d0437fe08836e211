"""Notes below a comparison: spread, paired differences, and how costs are counted."""

from gcnet.comparison.results import MAIN, Comparison
from gcnet.tasks.registry import task_of


def notes(comparison: Comparison) -> list[str]:
    """How to read the columns: what the spread is, what is paired, what is counted."""
    count = len(comparison.seeds)
    found = [_seed_note(comparison, count), _image_note(comparison)]
    skipped = sum(run.skipped for run in comparison.runs)
    if skipped:
        found.append(f"{skipped} unreadable validation images were skipped, over all runs.")
    if comparison.costs:
        found.extend(_cost_notes(comparison))
    return found


def _seed_note(comparison: Comparison, count: int) -> str:
    score = comparison.score
    if count == 1:
        return (
            f"One seed ({comparison.seeds[0]}): no {'spread' if score.is_share else 'uncertainty'} can be given, nor "
            "the smallest difference that the experiment could have shown; use --seeds 3 or more for that."
        )
    found = [comparison.difference(block) for block in comparison.tested()]
    widths = [item.half_width for item in found if item is not None and item.half_width is not None]
    low, high = (f"{100 * bound:.1f}" for bound in (min(widths, default=0), max(widths, default=0)))
    paired = (
        f"; ± after a difference is the half-width of the 95 % t-interval of the {count} differences to none, taken "
        "seed by seed (same seed, same data order) and not corrected for looking at several blocks. The smallest "
        "difference this experiment could have shown is that half-width: "
        f"{low if low == high else f'{low} to {high}'} {score.points} here"
    )
    return f"± after a {score.label} is the standard deviation over {count} seeds{paired if widths else ''}."


def _image_note(comparison: Comparison) -> str:
    """What the scores are of, and for a share of images what their number leaves open."""
    first = comparison.tested()[0]
    images = f"{min(run.images for run in comparison.runs if run.setting == MAIN):,} validation images"
    if not comparison.score.is_share:
        names = " and ".join((comparison.score.title, *(score.name for score in comparison.scores[1:])))
        return task_of(comparison.model).describe_scores(names, images)
    low, high = comparison.image_interval(first)
    return (
        f"Accuracy is that of the last epoch's weights on {images}; that many images alone leave "
        f"{100 * low:.1f} to {100 * high:.1f} % open for a run that scores like {first} (Wilson, 95 %)."
    )


def _cost_notes(comparison: Comparison) -> list[str]:
    timing = comparison.timing
    task = task_of(comparison.model)
    convention = (
        f"GFLOPs are of one image of {task.counted_image} and count a multiply-add as two, as torch.utils.flop_counter "
        "does; papers on vision networks print multiply-adds under that name, half of this number."
    )
    measured = (
        f"Times are medians of {timing['repetitions']} repetitions on a batch of {timing['batch_size']} "
        f"{task.timed_input}, interleaved over the blocks in one process, with non-zero block weights; peak memory is "
        f"that of one training step of {timing['memory_batch_size']} images beyond the model, in a new process."
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
