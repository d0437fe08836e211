"""The table of docs/blocks.md: what each block adds to a network, and what a forward pass and a step then take."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import circumstances_text
from benchmarks.rows import Circumstances, NetworkRow, written
from gcnet.errors import UserError
from gcnet.storage import write_atomic
from gcnet.text_files import markdown_table

BEGIN, END = "<!-- python -m benchmarks blocks: begin -->", "<!-- python -m benchmarks blocks: end -->"
_HEADINGS = ("block", "parameters added", "MFLOPs added", "forward", "training step")


def blocks_table(rows: Sequence[NetworkRow], where: Circumstances) -> str:
    """A line for each block, of its rows of both tasks, and when, where and on which images it was measured."""
    plain = next(row for row in rows if not row.against)
    forward, step = ({row.contestant: row for row in rows if row.task == task} for task in ("forward", "training_step"))
    lines = [_cells(forward[name], step[name], plain) for name in forward if name != plain.contestant]
    host = plain.contestant
    images = f"{host}, inference on {forward[host].shape}, training step on {step[host].shape}, float32, contiguous"
    return f"{markdown_table(_HEADINGS, lines)}\n\n{circumstances_text(where)}\n{images}"


def replace_table(page: Path, table: str) -> None:
    """Put the table between the page's two marks.

    Raises:
        UserError: the page has no such marks.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{page} must have the lines {BEGIN} and {END}, between which the table goes")
    write_atomic(page, f"{before}{BEGIN}\n\n{table}\n\n{END}{after}".encode())


def _cells(forward: NetworkRow, step: NetworkRow, plain: NetworkRow) -> list[str]:
    parameters, flops = forward.parameters - plain.parameters, forward.flops - plain.flops
    return [
        forward.contestant,
        f"{parameters:,} ({100 * parameters / plain.parameters:.2f} %)",
        f"{flops / 1e6:,.2f} ({100 * flops / plain.flops:.2f} %)",
        _ratio(forward),
        _ratio(step),
    ]


def _ratio(row: NetworkRow) -> str:
    assert row.ratio_of_minima is not None
    return f"{float(written(row.ratio_of_minima)):.2f}"  # rounded as by a reader of the CSV
