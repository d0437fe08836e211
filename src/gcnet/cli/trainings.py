"""What `gcnet compare` and `gcnet reproduce` share: trainings that a signal or a loss may end."""

import sys
from collections.abc import Callable

from gcnet.cli import EXIT_NON_FINITE, EXIT_OK
from gcnet.training.reporter import Reporter


def exit_code_of(trainings: Callable[[Reporter], object]) -> int:
    """Carry out what takes a reporter: 0, or the code of a signal or of a loss that is not finite, which is said."""
    from gcnet.compare.runs import Stopped
    from gcnet.training.nonfinite import NonFiniteLoss
    from gcnet.training.reporter import choose_reporter

    reporter = choose_reporter()
    try:
        trainings(reporter)
    except Stopped as stopped:
        print(f"gcnet: {stopped}", file=sys.stderr)
        return 128 + stopped.number
    except NonFiniteLoss as error:
        print(f"gcnet: {error}", file=sys.stderr)
        return EXIT_NON_FINITE
    finally:
        reporter.close()
    return EXIT_OK
