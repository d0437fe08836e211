"""The runs: the table of benchmarks, and the cost of every block against the number of positions, and in a network."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace

import torch

from benchmarks.blocks_page import blocks_table, replace_table
from benchmarks.cases import BENCHMARKS, Case, blocks, positions
from benchmarks.figure import draw_positions
from benchmarks.loading import LoadingCase, measure_loading
from benchmarks.measure import count_network, measure
from benchmarks.report import circumstances_text, means_table, measurements_table
from benchmarks.rows import Circumstances, NetworkRow, Row, append_rows, circumstances
from benchmarks.settings import BLOCKS, BLOCKS_PAGE, BenchmarkSettings
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


def run_blocks(settings: BenchmarkSettings) -> None:
    """Measure a network with every block against the plain one, print the table, and write the rows and the page's."""
    names = _chosen("block", settings.only, list_blocks())
    where = _begin(settings)
    cases = blocks(_sizes(settings), names)
    contestants = {contestant.name: contestant for case in cases for contestant in case.contestants}
    counts = {name: count_network(contestant) for name, contestant in contestants.items()}
    timed = _measured(cases, replace(settings, memory=False))
    found = [NetworkRow(**asdict(row), **counts[row.contestant]) for rows in timed for row in rows]
    table = blocks_table(found, where)
    print(f"\n{table}", flush=True)
    if settings.csv is not None:
        settings.csv.unlink(missing_ok=True)
        append_rows(settings.csv, found, where)
    if settings.csv == BLOCKS:
        replace_table(BLOCKS_PAGE, table)


RUNS = {"table": run_table, "positions": run_positions, "blocks": run_blocks}


def _begin(settings: BenchmarkSettings) -> Circumstances:
    torch.set_num_threads(settings.threads)
    where = circumstances(settings.threads)
    print(circumstances_text(where), flush=True)
    return where


def _sizes(settings: BenchmarkSettings) -> Sizes:
    return QUICK if settings.quick else REAL


def _measured(cases: Sequence[Case | LoadingCase], settings: BenchmarkSettings) -> Iterator[list[Row]]:
    for number, case in enumerate(cases, start=1):
        print(f"{case.benchmark} {number} of {len(cases)}: {', '.join(case.names)}", file=sys.stderr, flush=True)
        if isinstance(case, LoadingCase):
            yield measure_loading(case, rounds=settings.rounds, seconds=settings.limit)
        else:
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
