"""`gcnet reproduce`: the networks of the paper's tables, counted or trained, beside what was published."""

from gcnet.experiments.settings import ReproduceSettings

SUMMARY = "train the networks of the paper's tables, or count what they cost, beside what was published"

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
    from gcnet.experiments.costs import count_table
    from gcnet.experiments.reproduce import find_tables
    from gcnet.experiments.text import cost_text

    tables = find_tables(settings.table).values()
    print("\n\n".join(cost_text(table, count_table(table)) for table in tables))
    return 0


def _train(settings: ReproduceSettings) -> int:
    from gcnet.cli.trainings import exit_code_of
    from gcnet.experiments.reproduce import find_tables, output_folder, reproduce
    from gcnet.experiments.text import measured_text
    from gcnet.storage import write_atomic
    from gcnet.training.distributed import choose_device, processes_joined

    found = {}
    with processes_joined(choose_device(settings.device).type) as processes:
        code = exit_code_of(
            lambda reporter: found.update(reproduce(settings, reporter=reporter)), speaks=processes.first
        )
    if code or not processes.first:
        return code
    trained = {name for name, _ in found}
    tables = {name: table for name, table in find_tables(settings.table).items() if name in trained}
    small = settings.scale == "small"
    text = "\n\n".join(measured_text(name, table, found, small=small) for name, table in tables.items())
    write_atomic(output_folder(settings) / "tables.md", f"{text}\n".encode())
    print(
        f"\n{text}\n\ntables.md in {output_folder(settings)}, and a report for each network in the folder of its name"
    )
    return 0
