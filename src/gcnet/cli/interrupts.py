"""Signals that end a command: SIGINT (Ctrl-C), SIGTERM and SIGHUP raise KeyboardInterrupt, so that it cleans up."""

import os
import signal
import time
from dataclasses import dataclass
from types import FrameType

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_REPEATED = 2.0  # seconds in which programs such as `timeout` send a signal twice, and systemd another one


@dataclass
class _Received:
    """The first signal of this process.

    Attributes:
        number: of the signal; 0 before.
        time: when it came, by the monotonic clock.
        owner: process that handles signals; forked ones do not.
        is_over: whether the command has ended, and Python is about to.
    """

    number: int = 0
    time: float = 0.0
    owner: int = 0
    is_over: bool = False


_received = _Received()


def handle_interrupts(*, in_first_process: bool) -> None:
    """Raise KeyboardInterrupt at the first signal; end at once at a later one. An ignored SIGHUP stays ignored.

    Trainings have handlers of their own meanwhile, see `gcnet.training.signals`.

    Args:
        in_first_process: whether this is the first process of torchrun or the only one. The others write no files:
            SIGTERM and SIGHUP end them at once, also while they wait for each other.
    """
    _received.owner = os.getpid()
    for name in _SIGNALS if in_first_process else _SIGNALS[:1]:
        number = getattr(signal, name, None)
        if number is not None and (name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN):
            signal.signal(number, _handle)


def _handle(number: int, _frame: FrameType | None) -> None:
    if os.getpid() != _received.owner:  # a forked process, which its parent ends
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    elif not (_received.number or _received.is_over):
        _received.number, _received.time = number, time.monotonic()
        raise KeyboardInterrupt
    elif number == signal.SIGINT or _received.is_over or time.monotonic() - _received.time > _REPEATED:
        os._exit(128 + number)


def end_interrupts() -> None:
    """End at once at a signal from now on: otherwise Python prints a traceback on exit."""
    _received.is_over = not _received.number


def interrupted_by() -> int:
    """Return the number of the signal that interrupted the command; 0 if there was none."""
    return _received.number
