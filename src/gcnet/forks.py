"""Forks that wait for the requests of other threads, whose locks would stay locked in the child."""

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager

_LONGEST_WAIT = 60.0  # seconds of a fork; a request to a server that does not answer ends earlier


class _ForkGuard:
    """Threads that a fork waits for, and whether a fork waits, which keeps other threads out."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._threads: list[int] = []
        self._is_forking = False

    def enter(self) -> None:
        own = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._is_forking or own in self._threads)
            self._threads.append(own)

    def leave(self) -> None:
        with self._changed:
            self._threads.remove(threading.get_ident())
            self._changed.notify_all()

    def before_fork(self) -> None:
        own = threading.get_ident()
        with self._changed:
            self._is_forking = True
            self._changed.wait_for(lambda: set(self._threads) <= {own}, _LONGEST_WAIT)

    def after_fork(self) -> None:
        with self._changed:
            self._is_forking = False
            self._changed.notify_all()

    def in_child(self) -> None:
        """Forget the other threads, which the child does not have."""
        own = threading.get_ident()
        self._changed, self._is_forking = threading.Condition(), False
        self._threads = [thread for thread in self._threads if thread == own]


_guard = _ForkGuard()
os.register_at_fork(before=_guard.before_fork, after_in_parent=_guard.after_fork, after_in_child=_guard.in_child)


@contextmanager
def without_fork() -> Generator[None]:
    """Run code while no other thread forks this process, as the start of data-loader workers does.

    A fork copies one thread and all locks. In the child, a lock that another thread held, such as one of a network
    library, is never released.
    """
    _guard.enter()
    try:
        yield
    finally:
        _guard.leave()
