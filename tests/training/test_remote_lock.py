"""Locks of runs at URLs: one holder, renewed while it trains, and taken over only where that is safe."""

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gcnet.errors import UserError
from gcnet.lock_owner import has_ended, this_machine
from gcnet.remote_files import existing_file, file_system, read_remote
from gcnet.remote_uploads import create_remote, replace_remote
from gcnet.storage import LockedError
from gcnet.training import remote_lock
from gcnet.training.remote_lock import RemoteLock

PUBLISHED = "2026-01-01T10:00:00+00:00"


def new_lock(s3: str) -> RemoteLock:
    return RemoteLock(f"{s3}/run/.lock", f"{s3}/run")


def write(s3: str, minutes: float | None, **owner: Any) -> None:
    """Write the lock of a process on another machine that renewed it some minutes ago."""
    content = {"host": "node7", "machine": "other", "process": os.getpid(), "token": "x"} | owner
    if minutes is not None:
        content["renewed"] = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat()
    file_system(s3).pipe_file(f"{s3}/run/.lock", json.dumps(content).encode())


def stored(s3: str) -> dict[str, Any]:
    return json.loads(read_remote(f"{s3}/run/.lock"))


def test_one_of_many_holds_the_lock_and_leaves_nothing(s3: str) -> None:
    def take(lock: RemoteLock) -> bool:
        try:
            lock._take(None, take_over=False)
        except UserError:
            return False
        return True

    locks = [new_lock(s3) for _ in range(5)]
    for lock in locks:  # processes of other machines
        lock._owner["machine"] = "another"
    with ThreadPoolExecutor(5) as pool:
        assert sorted(pool.map(take, locks)) == [False] * 4 + [True]
    with pytest.raises(UserError, match="in use by process"):
        new_lock(s3).held(None).__enter__()
    file_system(s3).rm_file(f"{s3}/run/.lock")
    with new_lock(s3).held(None):
        assert stored(s3)["machine"] == this_machine()
    assert existing_file(f"{s3}/run/.lock") is None


STALE = (
    r"it renewed its lock 11 minutes ago; last published .* ago; locks that were not renewed for 10 minutes are stale"
)


@pytest.mark.parametrize(
    ("minutes", "published", "take_over", "refused"),
    [
        (9, PUBLISHED, False, r"wait until it ends, .* continues the run 10 minutes after the last renewal$"),
        (9, PUBLISHED, True, r"in use by process \d+ on node7; it renewed its lock 9 minutes ago"),
        (9, None, False, r"if it was killed, repeat the command 10 minutes after the last renewal$"),
        (11, PUBLISHED, False, STALE + r": if it was killed, `gcnet.resume\(s3://bucket/run, take_over=True\)` contin"),
        (11, PUBLISHED, True, None),
        (11, None, False, None),  # nothing can be overwritten
        (None, PUBLISHED, False, r"if it was killed, `gcnet.resume\(s3://bucket/run, take_over=True\)` continues"),
        (None, PUBLISHED, True, None),  # of an earlier version, which renews no lock
        (None, None, False, r"if it was killed, delete s3://bucket/run/.lock$"),
        (-300, PUBLISHED, True, "in use by process"),  # a clock that is ahead
    ],
)
def test_lock_of_another_machine_is_taken_over_if_it_is_stale(
    s3: str, minutes: float | None, published: str | None, take_over: bool, refused: str | None
) -> None:
    write(s3, minutes)
    lock = new_lock(s3)
    if refused is None:
        with lock.held(published, take_over=take_over):
            assert stored(s3)["token"] == lock._owner["token"]
        return
    with pytest.raises(UserError, match=refused):
        lock.held(published, take_over=take_over).__enter__()
    assert stored(s3)["token"] == "x"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b'{"renewed": 5, "process": {}}'])
def test_damaged_lock_is_one_sentence_and_can_be_taken_over(s3: str, content: bytes) -> None:
    file_system(s3).pipe_file(f"{s3}/run/.lock", content)
    with pytest.raises(UserError, match="s3://bucket/run is in use by"):
        new_lock(s3).held(PUBLISHED).__enter__()
    with new_lock(s3).held(PUBLISHED, take_over=True):
        pass


def test_only_one_takes_over_a_lock_that_both_saw(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(s3, 11)
    replace = remote_lock.replace_remote

    def late(data: bytes, url: str, version: str) -> bool:
        monkeypatch.setattr(remote_lock, "replace_remote", replace)
        write(s3, 0, token="faster")
        return replace(data, url, version)

    monkeypatch.setattr(remote_lock, "replace_remote", late)
    with pytest.raises(UserError, match="in use"):
        new_lock(s3).held(PUBLISHED, take_over=True).__enter__()
    assert stored(s3)["token"] == "faster"


def test_lock_is_renewed_until_it_is_lost_and_a_lost_one_is_left_to_its_owner(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lock, "RENEWED_EVERY", 0.01)
    lock = new_lock(s3)
    with lock.held(None):
        file = f"{s3}/run/.lock"
        file_system(s3).pipe_file(file, json.dumps(lock._owner | {"renewed": PUBLISHED}).encode())
        wait_until(lambda: stored(s3)["renewed"] > PUBLISHED)
        lock.check_held()
        write(s3, 0, token="other")
        with pytest.raises(LockedError, match="the lock of s3://bucket/run was deleted or taken by another process"):
            lock.check_held()
        time.sleep(0.1)
        assert stored(s3)["token"] == "other"
    assert stored(s3)["token"] == "other"


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("no renewal within 30 seconds")


def test_owner_has_ended_only_if_it_was_a_process_of_this_machine() -> None:
    ended = os.fork() or os._exit(0)
    os.waitpid(ended, 0)
    assert has_ended({"machine": this_machine(), "process": ended})
    assert has_ended({"machine": this_machine(), "process": os.getpid()})  # whose answer was lost
    assert not has_ended({"machine": this_machine(), "process": os.getppid()})
    assert not has_ended({"machine": "another", "host": os.uname().nodename, "process": ended})
    assert not has_ended({"host": os.uname().nodename, "process": ended})


def test_files_are_created_and_replaced_under_a_condition(s3: str) -> None:
    url = f"{s3}/file"
    assert create_remote(b"one", url) and not create_remote(b"two", url)
    before = existing_file(url)
    assert before is not None and replace_remote(b"three", url, before.version)
    assert not replace_remote(b"four", url, before.version)
    assert read_remote(url) == b"three"
    file_system(url).rm_file(url)
    assert not replace_remote(b"five", url, before.version)
    with pytest.raises(UserError, match="s3://none/file"):
        create_remote(b"", "s3://none/file")


def test_an_error_does_not_wait_for_a_server_that_no_longer_answers(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def hang(_: str) -> None:
        ended.wait(60)
        raise UserError("no answer")

    monkeypatch.setattr(remote_lock, "_LONGEST_WAIT", 0.01)
    with pytest.raises(RuntimeError, match="no network"), new_lock(s3).held(None):
        monkeypatch.setattr(remote_lock, "existing_file", hang)
        (renewal,) = (thread for thread in threading.enumerate() if thread.name == "lock renewal")
        raise RuntimeError("no network")
    assert renewal.is_alive()  # still waiting for the server
    ended.set()
    renewal.join()
