"""Heartbeats of the processes of a group: a process that failed, was killed or stopped ends all others within a minute.

Every process counts up a key of the group's store once a second, and reads that of the next rank and the first failure.
It ends itself if it still waits for the others some seconds after a failure.
"""

import json
import os
import re
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass

import torch.distributed as dist

from gcnet.errors import EXIT_RANK_FAILURE, RankFailure, UserError, out_of_memory, printable

_SECONDS = 1.0  # between two beats
_SILENT = 40  # beats that a process can miss, such as while it holds Python's lock
_SILENT_AFTER_FAILURE = 5
_GRACE = 10  # beats that a process has to end by itself after the failure of another
_LINGER = 100  # tenths of a beat that a failed process, which holds the store, gives the others to read the cause
_LONGEST = 500
# Of gloo and NCCL when another process has ended.
_LOST = re.compile(r"gloo.*(Connection (closed|reset|refused)|Broken pipe|Timed? ?out)|Connection closed by peer|NCCL")


@dataclass(frozen=True)
class _Failure:
    """The first failure of a group."""

    rank: int
    sentence: str


class Heartbeat:
    """Threads that exchange heartbeats with the other processes of a group.

    Args:
        store: of the group, which all processes share.
        rank: of this process.
        world: number of processes.
    """

    def __init__(self, store: dist.Store, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self._store = store
        self._own_store = store.clone()  # calls through one connection wait for each other
        self._stopped = threading.Event()
        self._has_store = True
        self._holder = ""
        self._asking = threading.Lock()
        self._turn: int | None = None
        self._failure: _Failure | None = None
        self._rounds = 0
        store.set(f"process {rank}", f"process {os.getpid()} on {socket.gethostname()}")
        store.set(_beat(rank), "0")

    def start(self) -> None:
        """Start the threads; all processes have joined the group."""
        self._holder = self._store.get("process 0").decode()
        for loop in (self._beat_until_stopped, self._watch_store):
            threading.Thread(target=loop, daemon=True, name="gcnet heartbeat").start()

    @property
    def needs_store(self) -> bool:
        """Whether the store exists and other processes wait for a key of this one."""
        return self._has_store and self._failure is None

    def stop(self) -> None:
        """Stop the threads."""
        self._stopped.set()

    def failed(self, error: BaseException) -> BaseException:
        """Return the error to raise for `error`, and make it known to the other processes.

        Args:
            error: that ends this process.

        Returns:
            A `RankFailure` with the cause if another process failed first and this one lost its connection; otherwise
            `error`, which names the rank if only this process failed. The attribute `reported` of a `UserError` is set
            if another process of this machine reports it.
        """
        if isinstance(error, RankFailure):
            error.reported = not self._reports(self._store)
            return error
        if is_lost_connection(error):
            failure = self._find_failure()
            return self.failed(RankFailure(failure.rank, failure.sentence))
        reports = self._reports(self._store)
        self._publish(_Failure(self.rank, f"rank {self.rank} failed: {one_line(error)}"), self._store)
        if isinstance(error, UserError):
            error.reported = not reports
        is_common = isinstance(error, UserError) and error.common
        if not is_common and self._fails_alone():
            _name_rank(error, self.rank)
        if not reports:
            time.sleep(_SECONDS)  # torchrun ends all processes of a machine with the first one
        return error

    def wait_for_readers(self) -> None:
        """Wait until the other processes have read the failure of this one, if the store ends with this process."""
        if self.rank or store_of_launcher():
            return
        keys = [left_key(rank) for rank in range(1, self.world)]
        with suppress(dist.DistError):
            for _ in range(_LINGER):
                if self._store.check(keys):
                    return
                time.sleep(_SECONDS / 10)

    def _fails_alone(self) -> bool:
        """Whether no other process failed by itself, such as by the same usage error."""
        with suppress(dist.DistError):
            self._store.add("failures", 1)
            time.sleep(_SECONDS)
            return self._store.add("failures", 0) == 1
        return True

    def _find_failure(self) -> _Failure:
        """The failure that another process has made known, or that its missing heartbeats show."""
        if self._failure is not None:
            return self._failure
        try:
            before = self._beats()
            for _ in range(_SILENT_AFTER_FAILURE):
                if (failure := self._read_failure(self._store)) is not None:
                    return failure
                time.sleep(_SECONDS)
            silent = [rank for rank, beat in enumerate(self._beats()) if beat == before[rank] and rank != self.rank]
            if silent:
                return self._publish(self._lost(silent[0]), self._store)
        except dist.DistError:  # with rank 0, the store ended
            self._has_store = False
            if not store_of_launcher():
                return self._failure or self._lost(0)
        return _Failure(-1, "the connection to another process is lost or timed out; see its own messages")

    def _beats(self) -> list[bytes]:
        return self._store.multi_get([_beat(rank) for rank in range(self.world)])

    def _lost(self, rank: int) -> _Failure:
        return _Failure(rank, f"rank {rank} ({self._describe(rank)}) ended without a message; it may have been killed")

    def _describe(self, rank: int) -> str:
        return self._holder if rank == 0 and rank != self.rank else self._store.get(f"process {rank}").decode()

    def _publish(self, failure: _Failure, store: dist.Store) -> _Failure:
        """Make a failure known; returns the first one of the group."""
        with suppress(dist.DistError):
            first = store.compare_set("failure", "", json.dumps(asdict(failure)))
            return _Failure(**json.loads(first))
        return failure

    def _read_failure(self, store: dist.Store) -> _Failure | None:
        return _Failure(**json.loads(store.get("failure"))) if store.check(["failure"]) else None

    def _reports(self, store: dist.Store) -> bool:
        """Whether this process is the first of its machine to ask, so that it reports the failure."""
        with self._asking, suppress(dist.DistError):
            if self._turn is None:
                self._turn = store.add(f"reports on {socket.gethostname()}", 1)
            return self._turn == 1
        return True

    def _beat_until_stopped(self) -> None:
        try:
            self._beat_and_read()
        except dist.DistError:
            self._has_store = False
            # After the end of torchrun, its processes save a checkpoint and stop by themselves.
            if not self._stopped.wait(_GRACE * _SECONDS) and not store_of_launcher():
                _end_process(f"rank 0 ({self._holder}) ended without a message; it may have been killed")

    def _beat_and_read(self) -> None:
        following = (self.rank + 1) % self.world
        last, silent, since_failure = b"", 0, 0
        while not self._stopped.wait(_SECONDS):
            self._rounds += 1
            self._own_store.set(_beat(self.rank), str(self._rounds))
            beat = self._own_store.get(_beat(following))
            last, silent = beat, silent + 1 if beat == last else 0
            failure = self._failure or self._read_failure(self._own_store)
            if failure is None and silent >= _SILENT:
                place = self._own_store.get(f"process {following}").decode()
                sentence = f"rank {following} ({place}) has not responded for {_SILENT * _SECONDS:.0f} s"
                failure = self._publish(_Failure(following, sentence), self._own_store)
            if failure is not None and self._failure is None and failure.rank != self.rank:
                self._reports(self._own_store)
                self._failure = failure
                self._own_store.set(left_key(self.rank), "")
            since_failure += self._failure is not None
            if self._failure is not None and since_failure > _GRACE:
                _end_process(self._failure.sentence if self._reports(self._own_store) else "")

    def _watch_store(self) -> None:
        """End this process if the store does not answer, in which case the other thread waits for it."""
        last, silent = 0, 0
        while not self._stopped.wait(_SECONDS) and self._has_store:
            last, silent = self._rounds, silent + 1 if self._rounds == last else 0
            if silent >= _SILENT:
                place = "torchrun, which" if store_of_launcher() else f"rank 0 ({self._holder}), which"
                _end_process(f"{place} connects the processes, has not responded for {_SILENT * _SECONDS:.0f} s")


def is_lost_connection(error: BaseException) -> bool:
    """Return whether `error` is raised by gloo or NCCL after another process has ended."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None
    )


def one_line(error: BaseException) -> str:
    """Return `error` as one line: a sentence of a `UserError` or on missing memory, else with the name of its class."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = str(error) if isinstance(error, UserError) else out_of_memory(error)
    text = text or f"{type(error).__name__}: {error}".removesuffix(": ")
    return printable(" ".join(text.split()))[:_LONGEST]


def _name_rank(error: BaseException, rank: int) -> None:
    if isinstance(error, UserError):
        error.args = (f"rank {rank}: {error}",)
    else:
        error.add_note(f"(raised by rank {rank})")


def _beat(rank: int) -> str:
    return f"beat {rank}"


def left_key(rank: int) -> str:
    """Return the key that the process `rank` sets when it does not need the store any longer."""
    return f"left {rank}"


def store_of_launcher() -> bool:
    """Return whether torchrun holds the store, and not rank 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _end_process(sentence: str) -> None:
    """End this process, whose main thread waits for a process that will not answer."""
    with suppress(OSError, ValueError):
        if sentence:
            print(f"gcnet: {sentence}", file=sys.stderr, flush=True)
    os._exit(EXIT_RANK_FAILURE)
