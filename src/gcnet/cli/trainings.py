"""Runs trainings for `gcnet compare` and `gcnet reproduce`, and maps their outcome to an exit code."""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from gcnet.arguments import arguments_of
from gcnet.cli import EXIT_NON_FINITE, EXIT_OK
from gcnet.cli.wording import with_flags
from gcnet.training.progress import Reporter
from gcnet.training.settings import TrainSettings

Result = TypeVar("Result")


def run_with_reporter(device: str, trainings: Callable[[Reporter], Result], tell: Callable[[Result], None]) -> int:
    """Carry out what takes a reporter and tell its result: 0, or the code of a signal or of a loss that is not finite.

    Of the processes of torchrun all take part, and the first alone speaks.
    """
    from gcnet.comparison.runs import Stopped
    from gcnet.devices import choose_device
    from gcnet.training.distributed import processes_joined
    from gcnet.training.progress import Silent, choose_reporter
    from gcnet.training.trainer import NonFiniteLoss

    with processes_joined(choose_device(device)) as processes:
        reporter = choose_reporter() if processes.first else Silent()
        try:
            result = trainings(reporter)
        except Stopped as stopped:
            code, ended = 128 + stopped.number, f"gcnet: {stopped}"
        except NonFiniteLoss as error:
            code, ended = EXIT_NON_FINITE, f"gcnet: {with_flags(str(error), arguments_of(TrainSettings))}"
        else:
            code, ended = EXIT_OK, ""
        finally:
            reporter.close()
    if processes.first and code:
        with suppress(OSError):  # the terminal may be gone
            print(ended, file=sys.stderr)
    elif processes.first:
        tell(result)
    return code
