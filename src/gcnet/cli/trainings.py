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


def train_flags(text: str) -> str:
    """Return `text` with flags of trainings in the place of arguments."""
    return with_flags(text, arguments_of(TrainSettings))


def run_with_reporter(device: str, trainings: Callable[[Reporter], Result], tell: Callable[[Result], None]) -> int:
    """Run trainings with a progress reporter, print their result, and return the exit code.

    Under torchrun all processes run them, and the first one prints.

    Args:
        device: of the trainings.
        trainings: function of the reporter that runs them.
        tell: prints the result.

    Returns:
        0, 3 for a loss that is not finite, or 128 plus the number of the signal that stopped them.
    """
    from gcnet.comparison.runs import Stopped
    from gcnet.devices import choose_device
    from gcnet.training.distributed import processes_joined
    from gcnet.training.losses import NonFiniteLoss
    from gcnet.training.progress import Silent, choose_reporter

    with processes_joined(choose_device(device)) as processes:
        reporter = choose_reporter(train_flags) if processes.first else Silent()
        try:
            result = trainings(reporter)
        except Stopped as stopped:
            code, ended = 128 + stopped.number, f"gcnet: {stopped}"
        except NonFiniteLoss as error:
            code, ended = EXIT_NON_FINITE, f"gcnet: {train_flags(str(error))}"
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
