"""What `gcnet compare` and `gcnet reproduce` share: trainings that a signal or a loss may end."""

import sys
from collections.abc import Callable

from gcnet.cli import EXIT_NON_FINITE, EXIT_OK
from gcnet.training.reporter import Reporter


def exit_code_of(trainings: Callable[[Reporter], object], *, speaks: bool) -> int:
    """Carry out what takes a reporter: 0, or the code of a signal or of a loss that is not finite.

    Of several processes one `speaks`.
    """
    from gcnet.compare.runs import Stopped
    from gcnet.training.nonfinite import NonFiniteLoss
    from gcnet.training.reporter import Silent, choose_reporter

    reporter = choose_reporter() if speaks else Silent()
    try:
        trainings(reporter)
    except Stopped as stopped:
        code, ended = 128 + stopped.number, f"gcnet: {stopped}"
    except NonFiniteLoss as error:
        code, ended = EXIT_NON_FINITE, f"gcnet: {error}"
    else:
        return EXIT_OK
    finally:
        reporter.close()
    if speaks:
        print(ended, file=sys.stderr)
    return code
