"""`gcnet compare`: the same network with different blocks, trained side by side, and a report of what each is worth."""

from gcnet.compare.settings import CompareSettings

SUMMARY = "train the same network with different blocks and report what each gains and costs"

Settings = CompareSettings


def run(settings: CompareSettings) -> int:
    """Compare, print the table and what it says; 130 or 143 after a signal, 3 for a loss that is not finite."""
    from gcnet.cli.trainings import exit_code_of
    from gcnet.compare.experiment import compare, output_folder
    from gcnet.report.summary import terminal_text
    from gcnet.report.write import FILES
    from gcnet.training.distributed import choose_device, processes_joined

    compared = []
    with processes_joined(choose_device(settings.device).type) as processes:
        code = exit_code_of(
            lambda reporter: compared.append(compare(settings=settings, reporter=reporter)), speaks=processes.first
        )
    if processes.first and not code:
        print(f"\n{terminal_text(compared[0])}\n")
        print(f"{', '.join(FILES)} in {output_folder(settings)}")
    return code
