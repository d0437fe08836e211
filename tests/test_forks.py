"""Forks wait for the requests of other threads."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from gcnet import forks
from gcnet.forks import without_fork
from gcnet.remote_files import read_ranges, retried
from gcnet.remote_uploads import create_remote


def succeeds_in_a_fork(work: Callable[[], bool]) -> bool:
    child = os.fork()
    if child == 0:
        os._exit(0 if work() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def make_request() -> bool:
    return retried("s3://bucket/file", lambda: True)


@contextmanager
def request_of_another_thread() -> Iterator[threading.Event]:
    """A request that lasts until the event is set."""
    begun, answered = threading.Event(), threading.Event()

    def request() -> bool:
        begun.set()
        return answered.wait(30)

    thread = threading.Thread(target=lambda: retried("s3://bucket/file", request))
    thread.start()
    begun.wait(30)
    try:
        yield answered
    finally:
        answered.set()
        thread.join()


def test_fork_waits_for_the_request_of_another_thread() -> None:
    with request_of_another_thread() as answered:
        answer = threading.Timer(0.2, answered.set)
        answer.start()
        assert succeeds_in_a_fork(lambda: answered.is_set() and make_request())
        answer.join()


def test_request_waits_for_a_fork_that_waits_itself() -> None:
    requests: list[str] = []
    with request_of_another_thread() as answered:

        def request_during_the_fork() -> None:
            while not forks._guard._is_forking:
                answered.wait(0.01)
            answer.start()
            with without_fork():
                requests.append("done")

        answer = threading.Timer(0.1, answered.set)
        thread = threading.Thread(target=request_during_the_fork)
        thread.start()
        assert succeeds_in_a_fork(lambda: not requests)
        thread.join()
        answer.join()
    assert requests == ["done"]


def test_fork_waits_neither_for_its_own_request_nor_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    with without_fork(), without_fork():
        assert succeeds_in_a_fork(make_request)
    monkeypatch.setattr(forks, "_LONGEST_WAIT", 0.05)
    with request_of_another_thread() as answered:
        assert succeeds_in_a_fork(make_request)
        assert not answered.is_set()
    assert make_request()


@pytest.mark.parametrize("request_of", [lambda url: create_remote(b"", url), lambda url: read_ranges([(url, 0, 1)])])
def test_requests_that_are_not_repeated_hold_off_forks_too(
    s3: str, request_of: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[None] = []
    enter = forks._guard.enter

    def count() -> None:
        entered.append(None)
        enter()

    monkeypatch.setattr(forks._guard, "enter", count)
    request_of(f"{s3}/file")
    assert len(entered) == 1
