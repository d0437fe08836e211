"""Cost tables (text and CSV), optionally relative to a baseline."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gcnet.text_files import markdown_table

WIDEST_TABLE = 100  # columns of a terminal
_LONGEST_NAME = 44


@dataclass(frozen=True)
class CostRow:
    """Costs of a part of a network.

    Attributes:
        part: its name.
        kind: "total", "stage" or "block".
        values: by key of `QUANTITIES`.
    """

    part: str
    kind: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class CostReport:
    """Costs of a network.

    Attributes:
        model: its name.
        size: height and width of images in pixels.
        batch: images per training step.
        lines: the total, then the parts.
    """

    model: str
    size: tuple[int, int]
    batch: int
    lines: tuple[CostRow, ...]

    @property
    def total(self) -> CostRow:
        """The whole network."""
        return self.lines[0]

    def title(self) -> str:
        """Return model and image size as text."""
        return f"{self.model}, {self.size[0]} x {self.size[1]}"


@dataclass(frozen=True)
class Quantity:
    """A column of a table.

    Args:
        heading: over the column.
        unit: what values are divided by.
        spread: keys of the lower and upper quartile of measured values.
    """

    heading: str
    unit: float
    spread: tuple[str, str] | None = None

    def text(self, value: float, sign: str = "") -> str:
        """Format a value in the unit of the column: integers from 1000 on, else four significant digits.

        Args:
            value: in base units.
            sign: "+" to show the sign of positive values.

        Returns:
            The text.
        """
        shown = value / self.unit
        return f"{shown:{sign},.0f}" if abs(shown) >= 1000 or self.unit == 1 else f"{shown:{sign}.4g}"

    def cell(self, line: CostRow, key: str) -> str:
        """Format the value of a row, with its quartiles if they are known.

        Args:
            line: the row.
            key: of `QUANTITIES`.

        Returns:
            The text.
        """
        if key not in line.values:
            return "-"
        text = self.text(line.values[key])
        if self.spread is None or not set(self.spread) <= line.values.keys():
            return text
        low, high = (f"{line.values[quartile] / self.unit:.3g}" for quartile in self.spread)
        return f"{text} ({low}-{high})"

    def difference(self, value: float, other: float) -> str:
        """Format a difference in the unit of the column and in %.

        Args:
            value: in base units.
            other: baseline in base units.

        Returns:
            The text.
        """
        if value == other:
            return "0"
        return self.text(value - other, "+") + (f" ({100 * (value - other) / other:+.3g} %)" if other else "")


QUANTITIES: Mapping[str, Quantity] = {
    "parameters": Quantity("parameters", 1),
    "flops": Quantity("GFLOPs", 1e9),
    "multiply_adds": Quantity("GMACs", 1e9),
    "activation_bytes": Quantity("activations (MB)", 1e6),
    "forward_seconds": Quantity("forward (ms)", 1e-3, ("forward_seconds_q1", "forward_seconds_q3")),
    "step_seconds": Quantity("step (ms)", 1e-3, ("step_seconds_q1", "step_seconds_q3")),
    "forward_peak_bytes": Quantity("forward peak (MB)", 1e6),
    "step_peak_bytes": Quantity("step peak (MB)", 1e6),
}
"""The costs of every part, as far as they are known."""

_ARITHMETIC = ("flops", "multiply_adds")
_WITHOUT_DIFFERENCE = ("multiply_adds",)  # which are half the FLOPs


def totals_table(bills: Sequence[CostReport], others: Sequence[CostReport | None]) -> str:
    """Format one row per network and image size.

    Args:
        bills: costs of the networks.
        others: baseline of each, or None.

    Returns:
        A Markdown table.
    """
    rows = [
        (_shortened(bill.title()), bill.total, other.total if other else None)
        for bill, other in zip(bills, others, strict=True)
    ]
    return _tables("model", rows)


def parts_table(bill: CostReport, other: CostReport | None) -> str:
    """Format the parts of a network: stages, their sum, and blocks.

    Args:
        bill: costs of the network.
        other: costs of the baseline, or None.

    Returns:
        A Markdown table.
    """
    baseline = {line.part: line for line in other.lines} if other else {}
    lines = sorted(bill.lines, key=lambda line: ("stage", "total", "block").index(line.kind))
    return _tables("part", [(_shortened(line.part), line, baseline.get(line.part)) for line in lines])


def scaled_quantities(lines: Sequence[CostRow]) -> dict[str, Quantity]:
    """Return `QUANTITIES` with the unit of FLOPs (G, M, or K up to 100 M) that suits the smallest value of `lines`."""
    values = [value for line in lines for key in _ARITHMETIC if (value := line.values.get(key, 0)) > 0]
    if not values or min(values) >= 1e7:
        prefix, unit = "G", 1e9
    elif min(values) >= 1e4 or max(values) >= 1e8:
        prefix, unit = "M", 1e6
    else:
        prefix, unit = "K", 1e3
    quantities = dict(QUANTITIES)
    for key in _ARITHMETIC:
        quantities[key] = replace(quantities[key], heading=prefix + quantities[key].heading[1:], unit=unit)
    return quantities


def _tables(first: str, rows: Sequence[tuple[str, CostRow, CostRow | None]]) -> str:
    """Tables of at most `WIDEST_TABLE` columns with the same rows, one below the other."""
    quantities = scaled_quantities([line for _, line, _ in rows])
    keys = [key for key in quantities if any(key in line.values for _, line, _ in rows)]
    compared = [key for key in keys if key not in _WITHOUT_DIFFERENCE and any(other for *_, other in rows)]
    names = [first, *(name for name, *_ in rows)]
    tables: list[list[list[str]]] = []
    for key in keys:
        quantity = quantities[key]
        columns = [[quantity.heading, *(quantity.cell(line, key) for _, line, _ in rows)]]
        if key in compared:
            columns.append(["difference", *(_difference(quantity, line, other, key) for _, line, other in rows)])
        if not tables or _width([names, *tables[-1], *columns]) > WIDEST_TABLE:
            tables.append([])
        tables[-1] += columns
    return "\n\n".join(_table([names, *columns]) for columns in tables)


def _table(columns: Sequence[Sequence[str]]) -> str:
    headings, *texts = (list(row) for row in zip(*columns, strict=True))
    return markdown_table(headings, texts)


def _width(columns: Sequence[Sequence[str]]) -> int:
    return 1 + sum(3 + max(map(len, column)) for column in columns)


def _difference(quantity: Quantity, line: CostRow, other: CostRow | None, key: str) -> str:
    values = [one.values.get(key) if one else None for one in (line, other)]
    return "-" if values[0] is None or values[1] is None else quantity.difference(values[0], values[1])


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME :]}"


def costs_csv(bills: Sequence[CostReport], others: Sequence[CostReport | None]) -> str:
    """Format all costs as CSV, with differences to the baseline in base units and in %.

    Args:
        bills: costs of the networks.
        others: baseline of each, or None.

    Returns:
        CSV text, one row per part of each network.
    """
    about = ("model", "against", "height", "width", "batch", "part", "kind")
    columns = [
        name
        for key, quantity in QUANTITIES.items()
        for name in (key, *(quantity.spread or ()), f"{key}_difference", f"{key}_percent")
    ]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*about, *columns], lineterminator="\n")
    writer.writeheader()
    for bill, other in zip(bills, others, strict=True):
        baseline = {line.part: line for line in other.lines} if other else {}
        for line in bill.lines:
            values = (bill.model, other.model if other else "", *bill.size, bill.batch, line.part, line.kind)
            row = dict(zip(about, values, strict=True)) | dict(line.values)
            writer.writerow(row | _differences(line, baseline.get(line.part)))
    return stream.getvalue()


def _differences(line: CostRow, other: CostRow | None) -> dict[str, float]:
    differences: dict[str, float] = {}
    baseline = other.values if other else {}
    for key in QUANTITIES.keys() & line.values.keys() & baseline.keys():
        differences[f"{key}_difference"] = line.values[key] - baseline[key]
        if baseline[key]:
            differences[f"{key}_percent"] = 100 * differences[f"{key}_difference"] / baseline[key]
    return differences
