"""Signals become wishes that the loop grants at the end of a step: stop (SIGTERM, SIGINT) or save (SIGUSR1)."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Wishes:
    """What signals have asked for so far: the signal that stops the run, and whether a checkpoint is wanted."""

    stop: int = 0
    save: bool = False


@contextmanager
def signals_heard() -> Generator[Wishes, None, None]:
    """Inside, SIGTERM, SIGINT and SIGUSR1 only set wishes; a second SIGINT ends the process at once with code 130.

    In a thread other than the main one nothing is installed, and no wish is ever set.
    """
    wishes = Wishes()
    if threading.current_thread() is not threading.main_thread():
        yield wishes
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
    handler = _build_handler(wishes, os.getpid())
    old = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield wishes
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


def _build_handler(wishes: Wishes, owner: int) -> Callable[[int, FrameType | None], None]:
    interrupts = 0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal interrupts
        if os.getpid() != owner:
            return  # a loading process that was only just forked: the main process decides when it ends
        if number == signal.SIGTERM:
            wishes.stop = number
        elif number == signal.SIGINT:
            interrupts += 1
            if interrupts > 1:
                _end_at_once()
            wishes.stop = wishes.stop or number
        else:
            wishes.save = True

    return handle


def _end_at_once() -> None:
    show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""
    os.write(2, f"{show_cursor}\ngcnet: ended at once; the last checkpoint stands\n".encode())
    os._exit(128 + signal.SIGINT)
