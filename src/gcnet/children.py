"""Child processes: their signals, their end with the parent, and whether they import its script."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType

FROM_TERMINAL = ("SIGINT", "SIGHUP")


@contextmanager
def signals_blocked(*names: str) -> Generator[None]:
    """Start children with signals blocked, which they inherit; the parent receives pending ones on exit.

    Ctrl-C and a closed terminal signal all processes of a command: the parent handles them for its children.

    Args:
        *names: names of the signals, such as `FROM_TERMINAL`; unknown names are skipped.
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


@contextmanager
def without_main_module() -> Generator[None]:
    """Start children by "spawn" that do not import the script of this process.

    The import would run a script without `if __name__ == "__main__":` again.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def is_importing_main() -> bool:
    """Whether this process is a child that is importing the script of its parent."""
    return bool(getattr(multiprocessing.current_process(), "_inheriting", False))


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
