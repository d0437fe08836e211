"""Batch sizes by trial: the first of several that fits into memory."""

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from gcnet.errors import OutOfMemory, out_of_memory
from gcnet.training.distributed import Processes
from gcnet.training.free_memory import free_memory, memory_limit

_T = TypeVar("_T")


def first_that_fits(sizes: Sequence[_T], run: Callable[[_T], object], device: torch.device, processes: Processes) -> _T:
    """Try sizes until one fits into memory in every process: on a GPU its memory, on the CPU the memory that is free.

    Args:
        sizes: the same in all processes, each needing less memory than the one before.
        run: uses the memory that a size needs; without exchanges between processes.
        device: of the network.
        processes: that use the same size.

    Returns:
        The first size that fits in all processes.

    Raises:
        OutOfMemory: as `run` raises it for the last size.
    """
    free = free_memory() if device.type == "cpu" else None
    processes.gather(None)  # before any of them uses memory
    index = next(index for index, size in enumerate(sizes) if _fits(run, size, device, free, size == sizes[-1]))
    return sizes[max(processes.gather(index))]


def _fits(run: Callable[[_T], object], size: _T, device: torch.device, free: int | None, is_last: bool) -> bool:
    try:
        with memory_limit(free):  # anew for each size: of what the heap keeps after an error, little can be used
            run(size)
    except Exception as error:
        if is_last or not (isinstance(error, OutOfMemory) or out_of_memory(error)):
            raise
    else:
        return True
    gc.collect()  # the error, which has references to the tensors, is gone
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return False
