"""Tables as text: counted costs and measured scores with published values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from gcnet.analysis.cost import count_parameters
from gcnet.comparison.summary import difference_cell, notes, score_cell
from gcnet.experiments.published import PUBLICATIONS, PublishedResult
from gcnet.experiments.reproduce import Measured
from gcnet.experiments.rows import PaperTable, TableRow
from gcnet.models.create import create_model
from gcnet.tasks.registry import task_of
from gcnet.text_files import markdown_table


@dataclass(frozen=True)
class RowCost:
    """Costs of the network of a row.

    Attributes:
        row: of the table.
        parameters: number of parameters.
        flops: of one image; a multiply-add counts as two.
    """

    row: TableRow
    parameters: int
    flops: int


def count_table(table: PaperTable) -> list[RowCost]:
    """Return the costs of every row of `table` at its image size; for detectors with 1000 boxes and 100 masks."""
    return [_count(row, table.size) for row in table.rows]


def _count(row: TableRow, size: tuple[int, int]) -> RowCost:
    with torch.device("meta"):
        model = create_model(row.model, **row.options)
    return RowCost(row, count_parameters(model), task_of(row.model).costs.count_flops(model, size))


def cost_text(table: PaperTable, costs: Sequence[RowCost]) -> str:
    """Format parameters and multiply-adds with published values.

    Args:
        table: to format.
        costs: of its rows.

    Returns:
        A Markdown table with notes.
    """
    headings = ("network", "parameters (M)", "published", "GMACs", "published", "GFLOPs", *table.scores)
    rows = [
        (
            cost.row.label,
            f"{cost.parameters / 1e6:.2f}",
            _count_cell(cost.row, "parameters"),
            f"{cost.flops / 2e9:.2f}",
            _count_cell(cost.row, "multiply_adds"),
            f"{cost.flops / 1e9:.2f}",
            *_score_cells(cost.row, table),
        )
        for cost in costs
    ]
    height, width = table.size
    remarks = (
        f"Counted for one image of {height} x {width}. GMACs are multiply-adds, which papers print as FLOPs; GFLOPs "
        "count a multiply-add as two. Matrix products, convolutions and attention are counted.",
        f"{', '.join(table.scores)}: published, in %, not measured here.",
        *table.notes,
    )
    values = (value for cost in costs for value in cost.row.published_values)
    return _text(table.title, markdown_table(headings, rows), remarks, values)


def measured_text(name: str, table: PaperTable, found: Mapping[tuple[str, str], Measured], *, small: bool) -> str:
    """Format measured scores with published values.

    Args:
        name: of the table.
        table: to format.
        found: trained networks by table and label.
        small: small scale, whose scores are not comparable to the published ones.

    Returns:
        A Markdown table with notes.
    """
    rows = [row for row in table.rows if (name, row.label) in found]
    measured = [found[name, row.label] for row in rows]
    comparison = measured[0].comparison
    score, *others = comparison.scores
    headings = (
        *("network", "parameters (M)", "GFLOPs", score.heading, f"against baseline ({score.points})"),
        *(other.heading for other in others),
        *(f"published {published}" for published in table.scores),
    )
    cells = [
        (
            row.label,
            f"{one.comparison.costs[one.name].parameters / 1e6:.4g}",
            f"{one.comparison.costs[one.name].flops / 1e9:.4g}",
            score_cell(one.comparison, one.name),
            difference_cell(one.comparison, one.name),
            *(score_cell(one.comparison, one.name, score=other) for other in others),
            *_score_cells(row, table),
        )
        for row, one in zip(rows, measured, strict=True)
    ]
    missing = [row.label for row in table.rows if row not in rows]
    models = list(dict.fromkeys(one.comparison.model for one in measured))
    remarks = [f"Measured: {', '.join(models)}; {'; '.join(_circumstances(measured[0]))}.", notes(comparison)[0]]
    if small:
        remarks.append("Published values are of the paper's networks and cannot be compared with the measured ones.")
    if missing:
        remarks.append(f"Skipped, without a counterpart in small networks: {', '.join(missing)}.")
    title = f"{table.title}, and the same rows at small scale" if small else table.title
    return _text(
        title,
        markdown_table(headings, cells),
        remarks,
        (value for row in rows if row.published for value in row.published.scores),
    )


def _circumstances(measured: Measured) -> Iterable[str]:
    about = measured.comparison.about
    return (f"{name}: {about[name]}" for name in ("data", "network", "recipe"))


def _text(title: str, body: str, remarks: Iterable[str], values: Iterable[PublishedResult]) -> str:
    """Title, table and remarks, with the sources of the printed values."""
    printed = {value.source for value in values}
    sources = (f"[{mark}] {source}" for mark, source in PUBLICATIONS.items() if mark in printed)
    return "\n".join([f"{title}\n", body, "", *(f"* {remark}" for remark in (*remarks, *sources))])


def _count_cell(row: TableRow, name: str) -> str:
    """The published parameters or multiply-adds of a row, "-" without one."""
    return str(getattr(row.published, name, None) or "-")


def _score_cells(row: TableRow, table: PaperTable) -> list[str]:
    """The published scores of a row, "-" without them."""
    return [str(score) for score in row.published.scores] if row.published else ["-"] * len(table.scores)
