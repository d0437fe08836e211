"""Owners of locks in words."""

import os
import re
import socket
from datetime import UTC, datetime, timedelta

import pytest

from gcnet.lock_owner import ago, describe_owner, own_lock, read_owner


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-50, "0 seconds ago"),
        (100, r"10\d seconds ago"),
        (121, "2 minutes ago"),
        (7_190, "119 minutes ago"),
        (5 * 3_600 + 60, "5 hours ago"),
        (50 * 3_600, "2 days ago"),
    ],
)
def test_ages_have_at_least_two_of_their_unit(seconds: int, words: str) -> None:
    assert re.fullmatch(words, ago((datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()))


def test_an_owner_has_its_process_machine_and_start() -> None:
    started = (datetime.now(UTC) - timedelta(hours=3)).isoformat(timespec="seconds")
    owner = {"host": "node7\x1b", "process": 123, "started": started}
    assert describe_owner(owner) == rf"process 123 on node7\x1b since {started} (3 hours ago)"
    own = own_lock()
    assert (own["process"], own["host"]) == (os.getpid(), socket.gethostname())
    assert ago(own["started"]).endswith("seconds ago")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"123\n", "process 123"),
        (b"", "another process"),
        (b"{", "another process"),
        (b"[1]", "another process"),
        (b'{"process": 5, "started": "yesterday"}', "process 5 since yesterday (at an unknown time)"),
    ],
)
def test_old_and_damaged_lock_files_are_read(content: bytes, words: str) -> None:
    assert describe_owner(read_owner(content)) == words
