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
    from gcnet.devices import is_first_process
    from gcnet.workflows.analyze import AttentionMaps, run_analysis

    if not settings.statistics and not is_first_process():
        return 0  # maps are drawn by the first process alone
    result = run_analysis(settings)
    if not is_first_process():
        return 0 if result.images else 1
    report_skipped(result.skipped)
    report_counts(result.images, len(result.skipped), "analyzed")
    if not result.images:
        return 1
    print(result)
    files = result.files if isinstance(result, AttentionMaps) else result.write(settings.output)
    report_written(files, settings.output)
    return 0
