"""What networks cost, line by line: as a table to read, and as CSV, on request with the differences to others."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gcnet.report.summary import markdown_table


@dataclass(frozen=True)
class Line:
    """A part of a network, and what it costs by the keys of `QUANTITIES`; kind is total, stage or block."""

    part: str
    kind: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Bill:
    """What a network costs at an image size (height, width in pixels) and a batch: the total, then its parts."""

    model: str
    size: tuple[int, int]
    batch: int
    lines: tuple[Line, ...]

    @property
    def total(self) -> Line:
        """The whole network."""
        return self.lines[0]

    def title(self) -> str:
        """Model and size of the images."""
        return f"{self.model}, {self.size[0]} x {self.size[1]}"


@dataclass(frozen=True)
class Quantity:
    """A column of the table: its heading, and what its values are divided by."""

    heading: str
    unit: float

    def text(self, value: float, sign: str = "") -> str:
        """The value in the column's unit: whole from 1000 on, below with four digits."""
        shown = value / self.unit
        return f"{shown:{sign},.0f}" if abs(shown) >= 1000 or self.unit == 1 else f"{shown:{sign}.4g}"

    def difference(self, value: float, other: float) -> str:
        """How much more than the other this is, in the column's unit and in per cent."""
        if value == other:
            return "0"
        return self.text(value - other, "+") + (f" ({100 * (value - other) / other:+.3g} %)" if other else "")


QUANTITIES: Mapping[str, Quantity] = {
    "parameters": Quantity("parameters", 1),
    "flops": Quantity("GFLOPs", 1e9),
    "multiply_adds": Quantity("GMACs", 1e9),
    "kept_bytes": Quantity("kept (MB)", 1e6),
    "forward_seconds": Quantity("forward (ms)", 1e-3),
    "step_seconds": Quantity("step (ms)", 1e-3),
    "forward_peak_bytes": Quantity("forward peak (MB)", 1e6),
    "step_peak_bytes": Quantity("step peak (MB)", 1e6),
}
"""What is told of every part, as far as it is known."""

_WITHOUT_DIFFERENCE = ("multiply_adds",)  # which are half the FLOPs


def totals_table(bills: Sequence[Bill], others: Sequence[Bill | None]) -> str:
    """One row a network and image size."""
    rows = [
        (bill.title(), bill.total, other.total if other else None) for bill, other in zip(bills, others, strict=True)
    ]
    return _table("model", rows)


def parts_table(bill: Bill, other: Bill | None) -> str:
    """One row a part: the stages, their sum, and the blocks, which are parts of stages."""
    theirs = {line.part: line for line in other.lines} if other else {}
    lines = sorted(bill.lines, key=lambda line: ("stage", "total", "block").index(line.kind))
    return _table("part", [(line.part, line, theirs.get(line.part)) for line in lines])


def _table(first: str, rows: Sequence[tuple[str, Line, Line | None]]) -> str:
    keys = [key for key in QUANTITIES if any(key in line.values for _, line, _ in rows)]
    compared = [key for key in keys if key not in _WITHOUT_DIFFERENCE and any(other for *_, other in rows)]
    headings, texts = [first], [[name] for name, *_ in rows]
    for key in keys:
        quantity = QUANTITIES[key]
        headings += [quantity.heading, *(["difference"] if key in compared else [])]
        for text, (_, line, other) in zip(texts, rows, strict=True):
            text.append(_cell(quantity.text, line.values.get(key)))
            if key in compared:
                text.append(_cell(quantity.difference, line.values.get(key), other.values.get(key) if other else None))
    return markdown_table(headings, texts)


def _cell(write: Callable[..., str], *values: float | None) -> str:
    return "-" if None in values else write(*values)


def bills_csv(bills: Sequence[Bill], others: Sequence[Bill | None]) -> str:
    """One row a part of each network; of each quantity the value, and against another the difference and per cent."""
    about = ("model", "against", "height", "width", "batch", "part", "kind")
    extra = ("", "_difference", "_percent")
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*about, *(key + end for key in QUANTITIES for end in extra)], lineterminator="\n")
    writer.writeheader()
    for bill, other in zip(bills, others, strict=True):
        theirs = {line.part: line for line in other.lines} if other else {}
        for line in bill.lines:
            values = (bill.model, other.model if other else "", *bill.size, bill.batch, line.part, line.kind)
            row = dict(zip(about, values, strict=True)) | dict(line.values)
            writer.writerow(row | _differences(line, theirs.get(line.part)))
    return stream.getvalue()


def _differences(line: Line, other: Line | None) -> dict[str, float]:
    found: dict[str, float] = {}
    theirs = other.values if other else {}
    for key in line.values.keys() & theirs.keys():
        found[f"{key}_difference"] = line.values[key] - theirs[key]
        if theirs[key]:
            found[f"{key}_percent"] = 100 * found[f"{key}_difference"] / theirs[key]
    return found
