"""`gcnet simplify`: replaces query-independent non-local blocks by simpler blocks."""

from gcnet.workflows.settings import SimplifySettings

SUMMARY = "replace query-independent non-local blocks by simpler blocks with their weights"

Settings = SimplifySettings


def run(settings: SimplifySettings) -> int:
    """Simplify the network, print the comparison, and write the model file.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0 if at least one block was replaced, else 1.
    """
    import sys

    from gcnet.cli.files import report_counts, report_skipped
    from gcnet.workflows.simplify import run_simplification, write_simplified

    result = run_simplification(settings)
    report_skipped(result.skipped)
    report_counts(result.images, len(result.skipped), "measured")
    print(result)
    if result.model is None:
        print("gcnet: no block can be replaced, and nothing was written", file=sys.stderr)
        return 1
    write_simplified(result.model, settings.output)
    print(f"\nwrote {settings.output}")
    return 0
