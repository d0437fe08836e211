"""The two runs: the table of benchmarks, and the cost of every block against the number of positions."""

import sys
from collections.abc import Iterable, Iterator, Sequence

import torch

from benchmarks.cases import BENCHMARKS, Case, positions
from benchmarks.figure import draw_positions
from benchmarks.measure import measure
from benchmarks.report import circumstances_text, means_table, measurements_table
from benchmarks.rows import Circumstances, Row, append_rows, circumstances
from benchmarks.settings import BenchmarkSettings
from benchmarks.shapes import QUICK, REAL, Sizes
from gcnet.blocks import list_blocks
from gcnet.errors import unknown


def run_table(settings: BenchmarkSettings) -> None:
    """Measure the benchmarks and print their tables; the rows of a case are appended to the CSV once it is measured."""
    names = _chosen("benchmark", settings.only, BENCHMARKS)
    where = _begin(settings)
    for name in names:
        found = []
        for rows in _measured(BENCHMARKS[name](_sizes(settings)), settings):
            if settings.csv is not None:
                append_rows(settings.csv, rows, where)
            found += rows
        print(f"\n## {name}\n\n{measurements_table(found)}", flush=True)
        if means := means_table(found):
            print(f"\nGeometric means over shapes:\n\n{means}", flush=True)


def run_positions(settings: BenchmarkSettings) -> None:
    """Measure every block on more and more positions, print the table, and write the rows and their figure."""
    blocks = _chosen("block", settings.only, list_blocks())
    where = _begin(settings)
    found = [row for rows in _measured(positions(_sizes(settings), blocks), settings) for row in rows]
    print(f"\n## positions\n\n{measurements_table(found)}", flush=True)
    if settings.csv is not None:
        settings.csv.unlink(missing_ok=True)
        append_rows(settings.csv, found, where)
        draw_positions(found, where, settings.csv.with_suffix(".png"))


RUNS = {"table": run_table, "positions": run_positions}


def _begin(settings: BenchmarkSettings) -> Circumstances:
    torch.set_num_threads(settings.threads)
    where = circumstances(settings.threads)
    print(circumstances_text(where), flush=True)
    return where


def _sizes(settings: BenchmarkSettings) -> Sizes:
    return QUICK if settings.quick else REAL


def _measured(cases: Sequence[Case], settings: BenchmarkSettings) -> Iterator[list[Row]]:
    for number, case in enumerate(cases, start=1):
        names = ", ".join(contestant.name for contestant in case.contestants)
        print(f"{case.benchmark} {number} of {len(cases)}: {names}", file=sys.stderr, flush=True)
        yield measure(case, settings)


def _chosen(kind: str, only: str | None, valid: Iterable[str]) -> list[str]:
    """The names that were asked for, by default all.

    Raises:
        UserError: one of them is unknown.
    """
    known = list(valid)
    names = known if only is None else only.split(",")
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)
    return names
