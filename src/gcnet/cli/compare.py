"""`gcnet compare`: the same network with different blocks, trained side by side, and a report of what each is worth."""

import sys

from gcnet.compare.settings import CompareSettings

SUMMARY = "train the same network with different blocks and report what each gains and costs"

Settings = CompareSettings


def run(settings: CompareSettings) -> int:
    """Compare, print the table and what it says; 130 or 143 after a signal, 3 for a loss that is not finite."""
    from gcnet.cli import EXIT_NON_FINITE, EXIT_OK
    from gcnet.compare.experiment import compare, output_folder
    from gcnet.compare.runs import Stopped
    from gcnet.report.summary import terminal_text
    from gcnet.report.write import FILES
    from gcnet.training.nonfinite import NonFiniteLoss
    from gcnet.training.reporter import choose_reporter

    reporter = choose_reporter()
    try:
        comparison = compare(settings=settings, reporter=reporter)
    except Stopped as stopped:
        print(f"gcnet: {stopped}", file=sys.stderr)
        return 128 + stopped.number
    except NonFiniteLoss as error:
        print(f"gcnet: {error}", file=sys.stderr)
        return EXIT_NON_FINITE
    finally:
        reporter.close()
    print(f"\n{terminal_text(comparison)}\n")
    print(f"{', '.join(FILES)} in {output_folder(settings)}")
    return EXIT_OK
