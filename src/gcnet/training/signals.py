"""Signal handling: SIGTERM, SIGINT and SIGHUP request a stop, SIGUSR1 a checkpoint, at the end of the step."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


@dataclass
class Wishes:
    """What signals have asked for so far.

    Attributes:
        stop: the signal that stops the run, or 0; SIGTERM also where torchrun, which started this process, is gone.
        save: whether a checkpoint is wanted.
    """

    stop: int = 0
    save: bool = False
    _launcher: int | None = None

    def look_for_launcher(self) -> None:
        """Ask to stop where torchrun has gone: nobody else would end this process, or see how it ends."""
        if self._launcher is not None and os.getppid() != self._launcher:
            self.stop = self.stop or signal.SIGTERM


@contextmanager
def signals_heard() -> Generator[Wishes, None, None]:
    """Inside, `STOPPING` and SIGUSR1 only set wishes; a second SIGINT ends the process at once with code 130.

    A SIGHUP that is ignored, as under nohup, stays ignored. In a thread other than the main one nothing is installed,
    and no wish is ever set.
    """
    wishes = Wishes(_launcher=os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None)
    if threading.current_thread() is not threading.main_thread():
        yield wishes
        return
    numbers = [number for number in STOPPING if not _is_ignored_hangup(number)]
    numbers += [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []
    handler = _build_handler(wishes, os.getpid())
    old = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield wishes
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


def _is_ignored_hangup(number: int) -> bool:
    return number not in (signal.SIGTERM, signal.SIGINT) and signal.getsignal(number) is signal.SIG_IGN


def _build_handler(wishes: Wishes, owner: int) -> Callable[[int, FrameType | None], None]:
    interrupts = 0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal interrupts
        if os.getpid() != owner:
            return  # a loading process that was only just forked: the main process decides when it ends
        if number == signal.SIGINT:
            interrupts += 1
            if interrupts > 1:
                _end_at_once()
            wishes.stop = wishes.stop or number
        elif number in STOPPING:
            wishes.stop = number
        else:
            wishes.save = True

    return handle


def _end_at_once() -> None:
    show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""
    with suppress(OSError):
        os.write(2, f"{show_cursor}\ngcnet: ended at once; the last checkpoint stands\n".encode())
    os._exit(128 + signal.SIGINT)
