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
    """Start children with signals blocked, which they inherit; the parent gets those that came once it is left.

    Ctrl-C and a closed terminal send a signal to all processes of a command: the parent answers for its children.

    Args:
        names: of the signals, such as `FROM_TERMINAL`; those that this system does not have are passed over.
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
    """Have this process, which multiprocessing started, get a signal when its parent has gone."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), number)

    threading.Thread(target=follow, daemon=True).start()
