"""`gcnet reproduce`: trains the networks of the paper's tables, or counts their costs, beside published numbers."""

from typing import TYPE_CHECKING

from gcnet.experiments.settings import ReproduceSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gcnet.experiments.reproduce import Measured

SUMMARY = "train the networks of the paper's tables, or count their costs, beside published numbers"

Settings = ReproduceSettings


def run(settings: ReproduceSettings) -> int:
    """Print the list or the tables; 130 or 143 after a signal, 3 for a loss that is not finite."""
    from gcnet.experiments.tables import TABLES

    if settings.list:
        width = max(map(len, TABLES))
        print("\n".join(f"{name:{width}}  {table.title}, {len(table.rows)} rows" for name, table in TABLES.items()))
        return 0
    return _count(settings) if settings.cost_only else _train(settings)


def _count(settings: ReproduceSettings) -> int:
    from gcnet.experiments.reproduce import find_tables
    from gcnet.experiments.text import cost_text, count_table

    tables = find_tables(settings.table).values()
    print("\n\n".join(cost_text(table, count_table(table)) for table in tables))
    return 0


def _train(settings: ReproduceSettings) -> int:
    from gcnet.cli.trainings import run_with_reporter
    from gcnet.experiments.reproduce import train_tables

    return run_with_reporter(
        settings.machine.device,
        lambda reporter: train_tables(settings, reporter=reporter),
        lambda found: _tell(settings, found),
    )


def _tell(settings: ReproduceSettings, found: "Mapping[tuple[str, str], Measured]") -> None:
    """Write the tables of what was trained, and print them."""
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
