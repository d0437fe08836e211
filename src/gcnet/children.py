"""Child processes that leave signals to their parent and end with it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

FROM_TERMINAL = ("SIGINT", "SIGHUP")


@contextmanager
def signals_blocked(*names: str) -> Generator[None]:
    """Start children with signals blocked, which they inherit; the parent receives pending ones on exit.

    Ctrl-C and a closed terminal signal all processes of a command: the parent handles them for its children.

    Args:
        *names: names of the signals, such as `FROM_TERMINAL`; unknown ones are skipped.
    """
    numbers = {getattr(signal, name) for name in names if hasattr(signal, name)}
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(number: int) -> None:
    """Send this process, started by multiprocessing, a signal when its parent has ended.

    Args:
        number: signal number.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), number)

    threading.Thread(target=follow, daemon=True).start()
