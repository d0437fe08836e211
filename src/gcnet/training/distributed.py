"""Process group of torchrun, or a single process."""

import atexit
import gc
import os
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor

from gcnet.devices import in_several_processes
from gcnet.errors import Failure, RankFailure, UserError
from gcnet.storage import StorageError
from gcnet.training.heartbeat import Heartbeat, left_key, one_line

# The first process writes checkpoints and reports, and measures costs, while the others wait for it.
_TIMEOUT = timedelta(minutes=30)
_START = timedelta(minutes=5)  # torchrun starts the processes of all machines together
_REFUSAL = timedelta(seconds=10)


@dataclass(frozen=True)
class Processes:
    """This process among all that train together. With one process every method returns its argument at once.

    Attributes:
        rank: of this process, from 0.
        world: number of processes.
        group: for small messages between the CPUs of the processes; None is the default group.
    """

    rank: int = 0
    world: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return each of the `values` summed over all processes, in float64."""
        if self.world == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed, group=self.group)
        return summed.tolist()

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes, with the same bits in each.

        Args:
            tensors: as many in each process, each of shape (), on the device of this process.
        """
        if self.world == 1 or not tensors:
            return
        summed = torch.stack(list(tensors))
        dist.all_reduce(summed, group=self.group if summed.device.type == "cpu" else None)
        for tensor, total in zip(tensors, summed, strict=True):
            tensor.copy_(total / self.world)

    def start_counts(self, value: int) -> Callable[[], list[int]]:
        """Return a function that waits for the integer `value` of every process, by rank; the exchange starts now."""
        if self.world == 1:
            return lambda: [value]
        counts = torch.zeros(self.world, dtype=torch.int64)
        counts[self.rank] = value
        work = dist.all_reduce(counts, group=self.group, async_op=True)

        def wait() -> list[int]:
            work.wait()
            return counts.tolist()

        return cache(wait)

    def gather(self, value: object) -> list:
        """Return the `value` of every process, by rank."""
        if self.world == 1:
            return [value]
        gathered: list = [None] * self.world
        dist.all_gather_object(gathered, value, group=self.group)
        return gathered

    def gather_in_first(self, value: object) -> list:
        """Return the `value` of every process by rank in the first process, and an empty list in the others."""
        if self.world == 1:
            return [value]
        gathered: list | None = [None] * self.world if self.first else None
        dist.gather_object(value, gathered, group=self.group)
        return gathered or []

    def from_first(self, value: Any) -> Any:
        """Return the `value` of the first process, in every process."""
        return self.gather(value if self.first else None)[0]

    def require_same(self, describe: Callable[[], str]) -> None:
        """Check that all processes have the same data, which are in files of several machines.

        Args:
            describe: returns a description of the data of this process; not called if it is the only one.

        Raises:
            UserError: in every process, where the descriptions differ.
        """
        if self.world == 1:
            return
        found = self.gather(describe())
        for rank, description in enumerate(found):
            if description != found[0]:
                raise UserError(
                    f"all processes need the same data; rank 0 has {found[0]}, and rank {rank} {description}: give all "
                    "machines the same files at the same path"
                ).in_all_processes()

    def by_first(self, work: Callable[[], Any]) -> Any:
        """Let the first process alone do some work while the others wait for it.

        Returns:
            What the work returned, in every process.

        Raises:
            UserError: in every process, where the work raised one. Whatever else it raises is raised in the first
                process, and a RankFailure in the others, so that none waits forever.
        """
        if self.world == 1:
            return work()
        if not self.first:
            outcome = self.from_first(None)
            if outcome.error is not None:
                raise outcome.error
            return outcome.value
        try:
            value = work()
        except BaseException as error:
            if isinstance(error, UserError):
                error.in_all_processes()
            self.from_first(_Outcome(None, _reported(error)))
            raise
        return self.from_first(_Outcome(value)).value

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of the first process, bit by bit.

        Args:
            tensors: as many in each process, of equal shapes and dtypes; on the CPU or the device of this process.
        """
        if self.world == 1:
            return
        with torch.no_grad():
            for tensor in tensors:
                values = tensor.contiguous()
                dist.broadcast(values, src=0, group=self.group if values.device.type == "cpu" else None)
                tensor.copy_(values)


ALONE = Processes()
"""A single process."""


def in_turns(shares: Sequence[Sequence[Any]]) -> list[Any]:
    """Return items in their order, of which process r of n has those at r, r + n, r + 2n and so on.

    Args:
        shares: items of each process, by rank.
    """
    return [shares[index % len(shares)][index // len(shares)] for index in range(sum(map(len, shares)))]


@dataclass(frozen=True)
class _Outcome:
    """What the first process sends to the others: the value of its work, or the error that it failed with."""

    value: Any
    error: UserError | None = None


def _reported(error: BaseException) -> UserError:
    """The error as the other processes raise it; of a class that can be pickled."""
    if not isinstance(error, UserError):
        return RankFailure(0, f"rank 0 failed: {one_line(error)}")
    kind = next(kind for kind in (StorageError, Failure, UserError) if isinstance(error, kind))
    return kind(str(error)).in_all_processes()


@contextmanager
def processes_joined(device: torch.device) -> Generator[Processes, None, None]:
    """Join the processes that torchrun started (nccl on GPUs, else gloo); without torchrun, a single process.

    An existing process group is used unchanged.

    Args:
        device: of this process, as returned by `choose_device`.

    Yields:
        The processes.

    Raises:
        UserError: the environment of torchrun is inconsistent.
        RankFailure: another process failed or was killed. A process that still waits for others 10 s after a failure,
            or for one that has not responded for 40 s, is ended with exit code 4.
    """
    exists = dist.is_initialized()
    if not exists and not in_several_processes():
        yield Processes()
        return
    group = None if exists else _join(device)
    gloo = dist.get_backend() == "gloo"
    processes = Processes(dist.get_rank(), dist.get_world_size(), None if gloo else _cpu_group())
    if group is None:
        yield processes
        return
    try:
        yield processes
    except BaseException as error:
        raised = group.heartbeat.failed(error)
        group.leave(processes, failed=True)
        if raised is error:
            raise
        raise raised from error
    group.leave(processes, failed=False)


def _join(device: torch.device) -> "_Group":
    """Start the process group of torchrun."""
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise UserError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {name} is not set: start several processes by "
                "torchrun, or unset WORLD_SIZE for one"
            )
    rank, world = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise UserError(f"RANK must be a number from 0 to below WORLD_SIZE, {world}; found {rank}: start by torchrun")
    # Its functions take the default group of the time of their import as a default argument. DistributedDataParallel
    # imports it; then the group, and gloo's threads with it, would live until Python ends, which they can abort.
    from torch.distributed.nn import functional as _functional  # noqa: F401

    atexit.register(gc.collect)  # DistributedDataParallel, which holds the group too, may be in a reference cycle

    nccl = device.type == "cuda"
    store = dist.PrefixStore(f"gcnet group {next(_groups)}", _shared_store())
    _require_one_kind(store, int(rank), int(world), device)
    heartbeat = Heartbeat(store, int(rank), int(world))
    dist.init_process_group(
        "nccl" if nccl else "gloo",
        store=store,
        rank=int(rank),
        world_size=int(world),
        timeout=_TIMEOUT,
        device_id=device if nccl else None,
    )
    heartbeat.start()
    return _Group(store, heartbeat)


def _require_one_kind(store: dist.Store, rank: int, world: int, device: torch.device) -> None:
    """Refuse GPUs in some processes and CPUs in others, which would wait for each other."""
    store.set(f"device {rank}", device.type)
    kinds = [kind.decode() for kind in store.multi_get([f"device {other}" for other in range(world)])]
    other = next((other for other, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is None:
        return
    store.set(f"refused {rank}", "")
    with suppress(dist.DistError):  # the first process may hold the store, and ends last
        store.wait([f"refused {other}" for other in range(world)], _REFUSAL)
    error = UserError(
        f"all processes need the same kind of `device`; rank 0 uses {kinds[0]}, and rank {other} {kinds[other]}"
    )
    error.reported = rank > 0
    raise error


@cache
def _shared_store() -> dist.Store:
    """The store that torchrun announces, for all groups of this process one after the other.

    Otherwise a process that opens one per group could connect to that of the previous group.
    """
    store, rank, world = next(dist.rendezvous("env://", timeout=_TIMEOUT))
    return dist.PrefixStore(agreed_start(store, rank, world, _START), store)


def agreed_start(store: dist.Store, rank: int, world: int, timeout: timedelta) -> str:
    """Agree with the other processes on a name for this start of the job.

    The store of torchrun outlives its processes. After a restart, it still has the keys of the previous start, such as
    addresses of processes that are gone.

    Args:
        store: of the job.
        rank: of this process.
        world: number of processes.
        timeout: how long rank 0 waits for the others, and they for it.

    Returns:
        A name that no earlier start has used.

    Raises:
        Failure: a process has not started.
    """
    number = store.add(f"starts of rank {rank}", 1)
    if rank:
        key = f"name for start {number} of rank {rank}"
        try:
            store.wait([key], timeout)
            name = store.get(key).decode()
            store.set(f"{name}: rank {rank}", "")
            store.wait([f"{name}: rank {other}" for other in range(1, world)], timeout)
        except dist.DistError as error:  # rank 0, which may have ended already, says which
            raise Failure(f"not all {world} processes have started within {_minutes(timeout)}") from error
        return name
    name, others, until = uuid4().hex, range(1, world), time.monotonic() + timeout.total_seconds()
    while missing := [other for other in others if not store.check([f"{name}: rank {other}"])]:
        if time.monotonic() > until:
            raise Failure(f"rank {missing[0]} has not started within {_minutes(timeout)}")
        for other in missing:  # its latest start may still be an earlier one
            store.set(f"name for start {store.add(f'starts of rank {other}', 0)} of rank {other}", name)
        time.sleep(0.01)
    return name


def _minutes(time: timedelta) -> str:
    return f"{time.total_seconds() / 60:.0f} minutes"


def _cpu_group() -> Any:
    """The gloo group for an nccl group, cached as long as the latter exists."""
    everyone = dist.group.WORLD
    if everyone not in _cpu_groups:
        _cpu_groups.clear()
        _cpu_groups[everyone] = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    return _cpu_groups[everyone]


@dataclass(frozen=True)
class _Group:
    """A process group that this module started: the store through which its processes find each other, heartbeats."""

    store: dist.Store
    heartbeat: Heartbeat

    def leave(self, processes: Processes, *, failed: bool) -> None:
        """End the group once no process needs it, and in the first process, which may hold the store, last of all.

        A process that failed waits for none, and none waits for it.
        """
        ranks = range(processes.world)
        with suppress(dist.DistError):  # the heartbeat notices the failure of another process
            if self.heartbeat.needs_store:
                self.store.set(f"done {processes.rank}", "")
            if not failed:
                self.store.wait([f"done {rank}" for rank in ranks], _TIMEOUT)
            if not failed and processes.first:
                self.store.wait([left_key(rank) for rank in ranks[1:]], _TIMEOUT)
            elif self.heartbeat.needs_store:
                self.store.set(left_key(processes.rank), "")
        # After an error, nccl would wait for pending exchanges of the GPU with other processes, perhaps forever.
        if not failed or dist.get_backend() == "gloo":
            dist.destroy_process_group()
        if failed:
            self.heartbeat.wait_for_readers()
        self.heartbeat.stop()


_groups = count()
_cpu_groups: dict[Any, Any] = {}
