"""A row of the results: one contestant against one other, with its times and memory, and the circumstances."""

import csv
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.settings import HERE
from gcnet.comparison.describe import describe_machine
from gcnet.errors import UserError
from gcnet.training.environment import versions


@dataclass(frozen=True)
class Circumstances:
    """When, where and with what a run was measured."""

    date: str
    commit: str
    device: str
    system: str
    threads: int
    versions: str


@dataclass(frozen=True)
class Row:
    """What was found of a contestant; None where nothing was measured, `against` empty where it is compared with none.

    Times are milliseconds over `rounds` rounds. `ratio_of_minima` is its least time by that of `against`, and
    `median_of_ratios` the median of the ratios within each round.
    """

    benchmark: str
    task: str
    shape: str
    layout: str
    dtype: str
    contestant: str
    rounds: int
    minimum_ms: float
    lower_quartile_ms: float
    median_ms: float
    upper_quartile_ms: float
    peak_bytes: int | None
    saved_bytes: int | None
    input_bytes: int
    against: str
    ratio_of_minima: float | None
    median_of_ratios: float | None


@dataclass(frozen=True)
class NetworkRow(Row):
    """What was found of a network, with its parameters, and its FLOPs for one image (a multiply-add as two)."""

    parameters: int
    flops: int


COLUMNS, NETWORK_COLUMNS = (
    tuple(field.name for part in (Circumstances, kind) for field in fields(part)) for kind in (Row, NetworkRow)
)


def circumstances(threads: int) -> Circumstances:
    """Those of this process."""
    machine = describe_machine("cpu", 1, threads)
    found = versions(("torch", "torchvision", "timm", "mmcv-lite", "onnxruntime", "openvino"))
    return Circumstances(
        date=datetime.now(UTC).isoformat(timespec="minutes"),
        commit=_commit(),
        device=machine["device"],
        system=machine["system"],
        threads=threads,
        versions=", ".join(f"{package} {version}" for package, version in found.items()),
    )


def append_rows(path: Path, rows: Sequence[Row], where: Circumstances) -> None:
    """Add rows of one kind to a CSV, which begins with its columns.

    Raises:
        UserError: the file is there and has other columns.
    """
    columns = NETWORK_COLUMNS if isinstance(rows[0], NetworkRow) else COLUMNS
    is_new = not path.exists() or path.stat().st_size == 0
    if not is_new:
        with path.open(newline="") as file:
            if tuple(next(csv.reader(file))) != columns:
                raise UserError(f"{path} has other columns than these results; give another file as --output")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(asdict(where) | {name: _text(value) for name, value in asdict(row).items()} for row in rows)


def read_rows(path: Path) -> tuple[list[Row], Circumstances]:
    """Read the rows of a CSV of one run, and its circumstances."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    rows = [Row(**{field.name: _value(line[field.name], str(field.type)) for field in fields(Row)}) for line in lines]
    where = {field.name: _value(lines[0][field.name], str(field.type)) for field in fields(Circumstances)}
    return rows, Circumstances(**where)


def _value(text: str, kind: str) -> Any:
    """The value of a cell; None if it is empty and may be."""
    if not text and "None" in kind:
        return None
    return int(text) if "int" in kind else float(text) if "float" in kind else text


def written(number: float) -> str:
    """As it stands in a CSV."""
    return f"{number:.5g}"


def _text(value: object) -> object:
    return written(value) if isinstance(value, float) else value


def _commit() -> str:
    """The commit that is measured, with `-dirty` if the code differs from it; empty outside a clone."""
    try:
        commit, changes = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "--", "../src", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit}-dirty" if changes else commit


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
