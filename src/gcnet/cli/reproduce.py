"""`gcnet reproduce`: what the networks of the paper's tables cost, beside what was published."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gcnet.errors import UserError, unknown

if TYPE_CHECKING:
    from gcnet.experiments.costs import RowCost
    from gcnet.experiments.rows import Published, Table

SUMMARY = "count parameters and FLOPs of the paper's tables, beside what was published"


@dataclass(frozen=True)
class Settings:
    """Count the parameters and FLOPs of the networks in a table of GCNet's paper, beside what was published.

    Nothing is trained: accuracies stand there as they were published, each with its source. Where none is known, there
    is none.

    For example:

      gcnet reproduce --list
      gcnet reproduce --table design --cost-only
    """

    table: tuple[str, ...] = ()
    """Tables by name, or all."""
    cost_only: bool = False
    """Required with --table: count what the networks cost."""
    list: bool = False
    """List the tables."""

    def __post_init__(self) -> None:
        """Refuse what says nothing, or two things."""
        if self.list == bool(self.table):
            raise UserError("gcnet reproduce takes --list, or --table NAME --cost-only")
        if self.list and self.cost_only:
            raise UserError("--cost-only belongs to --table, and --list is given")
        if self.table and not self.cost_only:
            raise UserError("--table is for counting what networks cost: add --cost-only")


def run(settings: Settings) -> int:
    """Print the list, or the tables."""
    from gcnet.experiments.costs import count_table
    from gcnet.experiments.tables import TABLES

    if settings.list:
        width = max(map(len, TABLES))
        print("\n".join(f"{name:{width}}  {table.title}, {len(table.rows)} rows" for name, table in TABLES.items()))
        return 0
    names = list(TABLES) if settings.table == ("all",) else settings.table
    for name in names:
        if name not in TABLES:
            raise unknown("table", name, [*TABLES, "all"])
    print("\n\n".join(_text(TABLES[name], count_table(TABLES[name])) for name in names))
    return 0


def _text(table: "Table", costs: "list[RowCost]") -> str:
    from gcnet.experiments.rows import SOURCES
    from gcnet.report.summary import markdown_table

    headings = ("network", "parameters (M)", "published", "GMACs", "published", "GFLOPs", *table.scores)
    rows = [
        (
            cost.row.label,
            f"{cost.parameters / 1e6:.2f}",
            _published(cost.row.parameters),
            f"{cost.flops / 2e9:.2f}",
            _published(cost.row.multiply_adds),
            f"{cost.flops / 1e9:.2f}",
            *map(_published, cost.row.scores or (None,) * len(table.scores)),
        )
        for cost in costs
    ]
    printed = {
        value.source
        for cost in costs
        for value in (cost.row.parameters, cost.row.multiply_adds, *cost.row.scores)
        if value is not None
    }
    height, width = table.size
    notes = (
        f"Counted for one image of {height} x {width}. GMACs are multiply-adds, which papers print as FLOPs; GFLOPs "
        "count a multiply-add as two. Matrix products, convolutions and attention are counted.",
        f"{', '.join(table.scores)}: published, in %, not measured here.",
        *table.notes,
        *(f"[{mark}] {source}" for mark, source in SOURCES.items() if mark in printed),
    )
    return "\n".join([f"{table.title}\n", markdown_table(headings, rows), "", *(f"* {note}" for note in notes)])


def _published(value: "Published | None") -> str:
    return "-" if value is None else f"{value.value} [{value.source}]"
