"""The lock of a run at a URL: an object that one of several writers can create, and that it renews while it trains."""

import json
import secrets
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from gcnet.errors import UserError, printable
from gcnet.lock_owner import ago, describe_owner, has_ended, own_lock, read_owner, seconds_since, this_machine
from gcnet.remote_files import existing_file, read_remote
from gcnet.remote_uploads import create_remote, remove_remote, replace_remote
from gcnet.storage import LockedError

RENEWED_EVERY = 60.0
"""Seconds between two renewals of a lock by its owner."""

STALE_AFTER = 600.0
"""Seconds without a renewal after which a lock is stale: its owner has ended, is suspended, or has no network."""

_ATTEMPTS = 3  # to take a lock that others change meanwhile
_LONGEST_WAIT = 5.0  # seconds for removing the lock, or for a renewal in progress, after an error


class RemoteLock:
    """The lock of a run at a URL, which names its owner and the time of the last renewal.

    Args:
        url: URL of the lock.
        run: URL of the run, for messages.
    """

    def __init__(self, url: str, run: str) -> None:
        self.url, self.run = url, run
        self._owner = own_lock() | {"machine": this_machine(), "token": secrets.token_hex(8)}

    @contextmanager
    def held(self, published: str | None, *, take_over: bool = False) -> Generator[None]:
        """Hold the lock, and renew it every minute.

        A lock of a process on this machine that has ended is taken over; so is a stale one if nothing is published.

        Args:
            published: Time of the last publication of the run; None if nothing is published.
            take_over: Whether a stale lock is taken over, whatever is published.

        Raises:
            UserError: Another process holds the lock.
        """
        self._take(published, take_over=take_over)
        ended = threading.Event()
        renewal = threading.Thread(target=self._renew_and_remove, args=(ended,), name="lock renewal", daemon=True)
        renewal.start()
        longest: float | None = _LONGEST_WAIT
        try:
            yield
            longest = None
        finally:
            ended.set()
            renewal.join(longest)  # a server that does not answer is not waited for: the error comes first

    def check_held(self) -> None:
        """Check that this process still holds the lock.

        Raises:
            LockedError: It does not.
        """
        if not self._is_held():
            raise LockedError(f"the lock of {printable(self.run)} was deleted or taken by another process")

    def _is_held(self) -> bool:
        return self._read()[0].get("token") == self._owner["token"]

    def _take(self, published: str | None, *, take_over: bool) -> None:
        owner: Mapping[str, Any] = {}
        for _ in range(_ATTEMPTS):
            if create_remote(self._content(), self.url):
                return
            owner, version = self._read()
            if version is None:  # removed meanwhile
                continue
            renewed = seconds_since(owner.get("renewed"))
            is_stale = renewed is not None and renewed >= STALE_AFTER
            is_free = is_stale and published is None
            is_free |= take_over and (is_stale or renewed is None)  # earlier versions do not renew their locks
            if not (is_free or has_ended(owner)):
                break
            if replace_remote(self._content(), self.url, version):
                return
        raise self._in_use(owner, published)

    def _in_use(self, owner: Mapping[str, Any], published: str | None) -> UserError:
        run, renewed = printable(self.run), seconds_since(owner.get("renewed"))
        words = f"{run} is in use by {describe_owner(owner)}"
        words += "" if renewed is None else f"; it renewed its lock {ago(owner['renewed'])}"
        words += "" if published is None else f"; last published {ago(published)}"
        again = f"`gcnet.resume({run}, take_over=True)` continues the run" if published else "repeat the command"
        if renewed is None and published is None:
            again = f"delete {printable(self.url)}"
        if renewed is None:
            return UserError(f"{words}; wait until it ends, or stop it; if it was killed, {again}")
        limit = f"{STALE_AFTER / 60:.0f} minutes"
        if renewed >= STALE_AFTER:
            return UserError(f"{words}; locks that were not renewed for {limit} are stale: if it was killed, {again}")
        return UserError(
            f"{words}; wait until it ends, or stop it; if it was killed, {again} {limit} after the last renewal"
        )

    def _renew_and_remove(self, ended: threading.Event) -> None:
        self._renew(ended)
        with suppress(UserError):  # the lock stays; its message names this process
            if self._is_held():
                remove_remote(self.url)

    def _renew(self, ended: threading.Event) -> None:
        while not ended.wait(RENEWED_EVERY):
            with suppress(UserError):  # without a network, a later renewal may succeed
                owner, version = self._read()
                if version is None or owner.get("token") != self._owner["token"]:
                    return
                replace_remote(self._content(), self.url, version)

    def _read(self) -> tuple[Mapping[str, Any], str | None]:
        """Return the owner that the lock names, and the version of the lock; None as version if it is missing."""
        file = existing_file(self.url)
        return ({}, None) if file is None else (read_owner(read_remote(self.url)), file.version)

    def _content(self) -> bytes:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return json.dumps(self._owner | {"renewed": now}).encode()
