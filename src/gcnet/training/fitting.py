"""Batch sizes by trial: the largest of several that fits into memory."""

import gc
import math
from collections.abc import Callable, Sequence

import torch

from gcnet.errors import OutOfMemory, out_of_memory
from gcnet.training.distributed import Processes
from gcnet.training.free_memory import PeakMemory, free_memory

_LARGEST_STEP = 16  # factor from one measured size to the next, at most: memory does not grow exactly linearly


def largest_that_fits(
    sizes: Sequence[int], run: Callable[[int], object], device: torch.device, processes: Processes
) -> int:
    """Find the largest size that fits into memory in every process: on a GPU its memory, on the CPU the free memory.

    On a GPU, sizes are tried from the largest on. On a CPU under Linux, too much memory can end the process instead of
    raising an error: the memory of growing sizes is measured, and sizes expected to need too much are not tried.

    Args:
        sizes: numbers of images, decreasing; the same in all processes.
        run: uses the memory that a size needs; without exchanges between processes.
        device: of the network.
        processes: that use the same size.

    Returns:
        The largest size that fits in all processes.

    Raises:
        OutOfMemory: as `run` raises it for the smallest size.
    """
    free = None
    if device.type == "cpu":
        run(sizes[-1])  # loads libraries, whose memory does not depend on the size
        free = free_memory()
    processes.gather(None)  # before any of them uses memory
    found = _first_without_error(sizes, run, device) if free is None else _largest_within(sizes, run, free)
    return min(processes.gather(found))


def _first_without_error(sizes: Sequence[int], run: Callable[[int], object], device: torch.device) -> int:
    for size in sizes[:-1]:
        if _fits(run, size):
            return size
        if device.type == "cuda":
            torch.cuda.empty_cache()
    run(sizes[-1])
    return sizes[-1]


def _largest_within(sizes: Sequence[int], run: Callable[[int], object], free: int) -> int:
    memory, size = PeakMemory(), sizes[-1]
    found, used, slope = 0, 0, 0.0
    too_large = math.inf
    while True:
        memory.reset()
        if _fits(run, size) and (growth := memory.growth()) <= free:
            slope = (growth - used) / (size - found)
            found, used = size, growth
        else:
            too_large = size
        larger = [other for other in sizes if found < other < too_large and used + slope * (other - found) <= free]
        if not larger:
            return found or sizes[-1]
        size = next((other for other in larger if other <= _LARGEST_STEP * found), larger[-1])


def _fits(run: Callable[[int], object], size: int) -> bool:
    try:
        run(size)
    except Exception as error:
        if not (isinstance(error, OutOfMemory) or out_of_memory(error)):
            raise
    else:
        return True
    gc.collect()  # the error, which has references to the tensors, is gone
    return False
