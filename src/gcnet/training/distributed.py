"""The processes that train together, as torchrun starts them, or the only one."""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from gcnet.errors import UserError


@dataclass(frozen=True)
class Processes:
    """This process among all: its rank, how many there are, and a group for small messages between their CPUs.

    With one process every method returns its argument and nothing waits.
    """

    rank: int = 0
    world: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes, in float64."""
        if self.world == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed, group=self.group)
        return summed.tolist()

    def gather(self, value: object) -> list:
        """The value of every process, by rank, in every process."""
        if self.world == 1:
            return [value]
        gathered: list = [None] * self.world
        dist.all_gather_object(gathered, value, group=self.group)
        return gathered

    def from_first(self, value: Any) -> Any:
        """The first process' value, in every process."""
        return self.gather(value)[0]

    def by_first(self, work: Callable[[], Any]) -> Any:
        """Have the first process alone do some work: what that gives, in every process, or the UserError it raised."""
        made: Any = None
        if self.first:
            try:
                made = work()
            except UserError as error:
                made = error
        made = self.from_first(made)
        if isinstance(made, UserError):
            raise made
        return made


@contextmanager
def processes_joined(device_type: str) -> Generator[Processes, None, None]:
    """The processes of this run: those that torchrun announces in the environment (nccl on GPUs, else gloo), or one.

    A process group that exists already is used and left standing.
    """
    started = False
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            yield Processes()
            return
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
        started = True
    try:
        group: Any = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")  # None: that of all
        yield Processes(dist.get_rank(), dist.get_world_size(), group)
    finally:
        if started:
            dist.destroy_process_group()


def choose_device(name: str) -> torch.device:
    """The device called "auto", "cpu", "cuda" or "cuda:N"; under torchrun a GPU of this process' own.

    Raises:
        UserError: for a name or a GPU that is not there.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if available else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f'--device takes auto, cpu, cuda or cuda:N, found "{name}"') from None
    if device.type == "cuda":
        if not available:
            raise UserError(f"--device {name}: PyTorch finds no CUDA GPU here; use --device cpu or auto")
        index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise UserError(f"--device {name}: there are {torch.cuda.device_count()} GPUs, numbered from 0")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise UserError(f'--device takes auto, cpu, cuda or cuda:N, found "{name}"')
    return device
