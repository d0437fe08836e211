"""`gcnet reproduce`: trains the networks of the paper's tables, or counts their costs, with published values."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gcnet.errors import UserError
from gcnet.experiments.settings import ReproduceSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gcnet.experiments.reproduce import Measured

SUMMARY = "train the models of the paper's tables, or count their costs, with published values"


@dataclass(frozen=True)
class Settings(ReproduceSettings):
    """Train the models of tables of the GCNet paper, or count their costs, with published values.

    `scale=small` trains the rows as cifar_resnet20 on small images; `scale=full` is the published protocol (COCO:
    paper-1x, synchronized batch norms; ImageNet: 120 epochs without blocks, then 40 with them). The same command
    resumes an interrupted run. With `cost_only`, accuracies are published values.

    Examples:
      gcnet reproduce --list
      gcnet reproduce --table design --cost-only
      gcnet reproduce --table design pooling-fusion --scale small --data cifar10 --weights resnet20.th
      gcnet reproduce --table design --scale full --data coco --weights pretrained --download
      gcnet reproduce --table imagenet --scale full --data imagenet
    """

    table: tuple[str, ...] = ()
    """Names of tables, or all; rows in several tables are trained once."""
    scale: Literal["full", "small"] | None = None  # ty: ignore[incompatible-attribute-override]
    """Train the models: full is the published protocol, small takes minutes to hours on a CPU."""
    list: bool = False
    """List the tables."""
    cost_only: bool = False
    """Count the costs of the models without training."""

    def __post_init__(self) -> None:
        """Check that exactly one of `list`, `cost_only` and `scale` is given."""
        if self.list + self.cost_only + (self.scale is not None) != 1 or self.list == bool(self.table):
            raise UserError(
                "gcnet reproduce takes `list`, or `table=NAME` with `cost_only`, `scale=full` or `scale=small`"
            )
        if self.scale is not None:
            super().__post_init__()


def run(settings: Settings) -> int:
    """Print the list, or the tables with costs or results.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0, 3 for a loss that is not finite, or 129, 130 or 143 after a signal.
    """
    from gcnet.experiments.tables import TABLES

    if settings.list:
        width = max(map(len, TABLES))
        print("\n".join(f"{name:{width}}  {table.title}, {len(table.rows)} rows" for name, table in TABLES.items()))
        return 0
    return _count(settings) if settings.cost_only else _train(settings)


def _count(settings: Settings) -> int:
    from gcnet.experiments.reproduce import find_tables
    from gcnet.experiments.text import cost_text, count_table

    tables = find_tables(settings.table).values()
    print("\n\n".join(cost_text(table, count_table(table)) for table in tables))
    return 0


def _train(settings: Settings) -> int:
    from gcnet.cli.trainings import run_with_reporter
    from gcnet.experiments.reproduce import train_tables

    return run_with_reporter(
        settings.machine.device,
        lambda reporter: train_tables(settings, reporter=reporter),
        lambda found: _tell(settings, found),
    )


def _tell(settings: Settings, found: "Mapping[tuple[str, str], Measured]") -> None:
    """Write and print the tables of the trained networks."""
    from gcnet.experiments.reproduce import find_tables, tables_folder
    from gcnet.experiments.text import measured_text
    from gcnet.storage import write_atomic

    trained = {name for name, _ in found}
    tables = {name: table for name, table in find_tables(settings.table).items() if name in trained}
    small = settings.scale == "small"
    text = "\n\n".join(measured_text(name, table, found, small=small) for name, table in tables.items())
    write_atomic(tables_folder(settings) / "tables.md", f"{text}\n".encode())
    print(
        f"\n{text}\n\ntables.md in {tables_folder(settings)}, and a report for each network in the folder of its name"
    )
