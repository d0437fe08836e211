"""Process group of torchrun, or a single process."""

import os
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from gcnet.devices import in_several_processes
from gcnet.errors import Failure, UserError
from gcnet.storage import StorageError

# The first process writes checkpoints and reports, and measures costs, while the others wait for it.
_TIMEOUT = timedelta(minutes=30)
# Errors of gloo when another process has ended.
_LOST = re.compile(r"gloo/transport/.*(Connection (closed|reset|refused)|Broken pipe)|Connection closed by peer")


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

    def counts(self, value: int) -> list[int]:
        """Return the integer `value` of every process, by rank."""
        return [round(count) for count in self.sums([value * (rank == self.rank) for rank in range(self.world)])]

    def gather(self, value: object) -> list:
        """Return the `value` of every process, by rank."""
        if self.world == 1:
            return [value]
        gathered: list = [None] * self.world
        dist.all_gather_object(gathered, value, group=self.group)
        return gathered

    def from_first(self, value: Any) -> Any:
        """Return the `value` of the first process, in every process."""
        return self.gather(value if self.first else None)[0]

    def by_first(self, work: Callable[[], Any]) -> Any:
        """Let the first process alone do some work while the others wait for it.

        Returns:
            What the work returned, in every process.

        Raises:
            UserError: in every process, where the work raised one. Whatever else it raises is raised in the first
                process, and reported by a UserError in the others, so that none waits for ever.
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
            self.from_first(_Outcome(None, _reported(error)))
            raise
        return self.from_first(_Outcome(value)).value

    def copy_from_first(self, network: nn.Module) -> None:
        """Overwrite the parameters and buffers of a network by those of the first process, bit by bit."""
        if self.world == 1:
            return
        with torch.no_grad():
            for tensor in network.state_dict().values():
                values = tensor.contiguous()
                dist.broadcast(values, src=0)
                tensor.copy_(values)


@dataclass(frozen=True)
class _Outcome:
    """What the first process sends to the others: the value of its work, or the error that it failed with."""

    value: Any
    error: UserError | None = None


def _reported(error: BaseException) -> UserError:
    """The error as the other processes raise it; of a class that can be pickled."""
    if isinstance(error, UserError):
        return (StorageError if isinstance(error, StorageError) else UserError)(str(error))
    return UserError(f"the first process failed: {type(error).__name__}: {error}")


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
        Failure: the connection to another process is lost.
    """
    exists = dist.is_initialized()
    if not exists and not in_several_processes():
        yield Processes()
        return
    store = None if exists else _join(device)
    gloo = dist.get_backend() == "gloo"
    processes = Processes(dist.get_rank(), dist.get_world_size(), None if gloo else _cpu_group())
    try:
        yield processes
    except BaseException as error:
        if store is not None:
            _leave(store, processes, failed=True)
        if isinstance(error, RuntimeError) and _LOST.search(str(error)):
            raise Failure("the connection to another process is lost; see its own messages") from error
        raise
    if store is not None:
        _leave(store, processes, failed=False)


def _join(device: torch.device) -> dist.Store:
    """Start the process group; returns the store through which the processes of this group find each other."""
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise UserError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and {name} is not set: start several processes by "
                "torchrun, or unset WORLD_SIZE for one"
            )
    rank, world = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise UserError(f"RANK must be a number from 0 to below WORLD_SIZE, {world}; found {rank}: start by torchrun")
    nccl = device.type == "cuda"
    store = dist.PrefixStore(f"gcnet group {next(_groups)}", _shared_store())
    dist.init_process_group(
        "nccl" if nccl else "gloo",
        store=store,
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=_TIMEOUT,
        device_id=device if nccl else None,
    )
    return store


@cache
def _shared_store() -> dist.Store:
    """The store that torchrun announces, for all groups of this process one after the other.

    Otherwise a process that opens one per group could connect to that of the previous group.
    """
    store, _, _ = next(dist.rendezvous("env://", timeout=_TIMEOUT))
    return store


def _cpu_group() -> Any:
    """The gloo group for an nccl group, cached as long as the latter exists."""
    everyone = dist.group.WORLD
    if everyone not in _cpu_groups:
        _cpu_groups.clear()
        _cpu_groups[everyone] = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    return _cpu_groups[everyone]


def _leave(store: dist.Store, processes: Processes, *, failed: bool) -> None:
    """End the group once no process needs it, and in the first process, which may hold the store, last of all.

    A process that failed waits for none, and none waits for it.
    """
    ranks = range(processes.world)
    with suppress(dist.DistError):  # where another process has failed, which it reports itself
        store.set(f"done {processes.rank}", "")
        if not failed:
            store.wait([f"done {rank}" for rank in ranks], _TIMEOUT)
        if failed or not processes.first:
            store.set(f"left {processes.rank}", "")
        else:
            store.wait([f"left {rank}" for rank in ranks[1:]], _TIMEOUT)
    # After an error, nccl would wait for pending exchanges of the GPU with other processes, perhaps forever.
    if not failed or dist.get_backend() == "gloo":
        dist.destroy_process_group()


_groups = count()
_cpu_groups: dict[Any, Any] = {}
