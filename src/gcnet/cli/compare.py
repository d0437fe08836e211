"""`gcnet compare`: trains the same network with different blocks, and reports scores and costs."""

from gcnet.comparison.settings import CompareSettings

SUMMARY = "train the same model with different blocks, and report scores and costs"

Settings = CompareSettings


def run(settings: CompareSettings) -> int:
    """Compare the blocks, and print the table and the conclusion.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0, 3 for a loss that is not finite, or 129, 130 or 143 after a signal.
    """
    from gcnet.cli.trainings import run_with_reporter
    from gcnet.comparison.experiment import output_folder, run_comparison
    from gcnet.comparison.report import FILES
    from gcnet.comparison.summary import terminal_text

    return run_with_reporter(
        settings.machine.device,
        lambda reporter: run_comparison(settings=settings, reporter=reporter),
        lambda found: print(f"\n{terminal_text(found)}\n\n{', '.join(FILES)} in {output_folder(settings)}"),
    )
