"""`gcnet analyze`: visualizes attention maps, and measures how query-dependent they are."""

from gcnet.tasks.settings import AnalyzeSettings

SUMMARY = "visualize attention maps, and measure how query-dependent they are"

Settings = AnalyzeSettings


def run(settings: AnalyzeSettings) -> int:
    """Analyze images or data, print and write the result.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0 if at least one image could be read, else 1.
    """
    from gcnet.cli.files import report_counts, report_skipped, report_written
    from gcnet.workflows.analyze import AttentionMaps, run_analysis

    result = run_analysis(settings)
    report_skipped(result.skipped)
    report_counts(result.images, len(result.skipped), "analyzed")
    if not result.images:
        return 1
    print(result)
    files = result.files if isinstance(result, AttentionMaps) else result.write(settings.output)
    report_written(files, settings.output)
    return 0
