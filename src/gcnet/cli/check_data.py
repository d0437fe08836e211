"""`gcnet check-data`: finds the issues of a data set before training."""

from gcnet.tasks.settings import CheckDataSettings

SUMMARY = "find issues of a data set before training: COCO annotations, class folders or a CSV"

Settings = CheckDataSettings


def run(settings: CheckDataSettings) -> int:
    """Check the data, print the report, and write the files of --output and --fix.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0 without issues, else 1.
    """
    from gcnet.cli import EXIT_FAILURE, EXIT_OK
    from gcnet.cli.files import report_written
    from gcnet.workflows.check_data import run_check

    report = run_check(settings)
    print(report)
    if settings.output is not None:
        report_written(report.write(settings.output), settings.output)
    if settings.fix is not None:
        print(f"\n{report.write_fixed(settings.fix)}")
    return EXIT_FAILURE if report.has_issues else EXIT_OK
