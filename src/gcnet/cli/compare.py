"""`gcnet compare`: trains the same network with different blocks, and reports scores and costs."""

from gcnet.comparison.settings import CompareSettings

SUMMARY = "train the same network with different blocks, and report scores and costs"

Settings = CompareSettings


def run(settings: CompareSettings) -> int:
    """Compare, print the table and the conclusion; 130 or 143 after a signal, 3 for a loss that is not finite."""
    from gcnet.cli.trainings import run_with_reporter
    from gcnet.comparison.experiment import output_folder, run_comparison
    from gcnet.comparison.report import FILES
    from gcnet.comparison.summary import terminal_text

    return run_with_reporter(
        settings.machine.device,
        lambda reporter: run_comparison(settings=settings, reporter=reporter),
        lambda found: print(f"\n{terminal_text(found)}\n\n{', '.join(FILES)} in {output_folder(settings)}"),
    )
