"""Signal handling: SIGTERM, SIGINT and SIGHUP request a stop, SIGUSR1 a checkpoint, at the end of the step."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


@dataclass
class StopRequest:
    """Requests received by signals.

    Attributes:
        stop: number of the signal that stops the run, or 0; also SIGTERM if the parent torchrun is gone.
        save: whether a checkpoint was requested.
    """

    stop: int = 0
    save: bool = False
    _launcher: int | None = None

    def check_launcher(self) -> None:
        """Request a stop if the parent torchrun is gone: nothing else would end this process."""
        if self._launcher is not None and os.getppid() != self._launcher:
            self.stop = self.stop or signal.SIGTERM


@contextmanager
def handle_signals() -> Generator[StopRequest, None, None]:
    """Turn `STOP_SIGNALS` and SIGUSR1 into requests; a second SIGINT ends the process immediately with code 130.

    An ignored SIGHUP, as under nohup, stays ignored. Outside of the main thread no handler is installed.

    Yields:
        The requests, updated by the signal handler.
    """
    request = StopRequest(_launcher=os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = [number for number in STOP_SIGNALS if not _is_ignored_hangup(number)]
    numbers += [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []
    handler = _build_handler(request, os.getpid())
    old = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield request
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


def _is_ignored_hangup(number: int) -> bool:
    return number not in (signal.SIGTERM, signal.SIGINT) and signal.getsignal(number) is signal.SIG_IGN


def _build_handler(request: StopRequest, owner: int) -> Callable[[int, FrameType | None], None]:
    interrupts = 0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal interrupts
        if os.getpid() != owner:
            return  # a forked data-loader worker: the main process ends it
        if number == signal.SIGINT:
            interrupts += 1
            if interrupts > 1:
                _end_at_once()
            request.stop = request.stop or number
        elif number in STOP_SIGNALS:
            request.stop = number
        else:
            request.save = True

    return handle


def _end_at_once() -> None:
    show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""
    with suppress(OSError):
        os.write(2, f"{show_cursor}\ngcnet: ended without saving; an earlier checkpoint, if any, remains\n".encode())
    os._exit(128 + signal.SIGINT)
