"""Batch size of an evaluation or prediction: given, the default, or the largest that fits into memory."""

import logging
from collections.abc import Callable
from typing import Literal

import torch

from gcnet.errors import explained_out_of_memory
from gcnet.training.distributed import Processes
from gcnet.training.fitting import largest_that_fits

AUTO_ADVICE = "use a smaller `batch_size`, or `batch_size=auto`, which tries what fits"
"""What needs less memory than a batch of several images."""

BatchSize = int | Literal["auto"] | None

_logger = logging.getLogger(__name__)


class FoundBatchSize(int):
    """A batch size that was found by trial."""


def find_batch_size(
    run: Callable[[int], object], *, most: int, images: int, device: torch.device, processes: Processes
) -> FoundBatchSize:
    """Find the largest batch size that fits into memory, and log it: the largest allowed, or half of it, and so on.

    Args:
        run: runs the network on a batch of so many images of the largest size, without exchanges between processes.
        most: largest batch size.
        images: number of images of all processes, which limits it too.
        device: of the network.
        processes: that share the images; all use the same size.

    Returns:
        Images per forward pass of a process.

    Raises:
        OutOfMemory: a single image does not fit.
    """
    sizes = [max(min(most, -(-images // processes.world)), 1)]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    with explained_out_of_memory(1):
        size = largest_that_fits(sizes, run, device, processes)
    if processes.first:
        where = " in each process" if processes.world > 1 else ""
        tried = f"; {sizes[sizes.index(size) - 1]} do not fit into memory" if size < sizes[0] else ""
        _logger.info("batch size: %d image%s%s, by trial%s", size, "s" * (size != 1), where, tried)
    return FoundBatchSize(size)


def advice_for(batch_size: int) -> str | None:
    """Return the advice of an error of missing memory; None for the usual one, of a single image.

    Args:
        batch_size: images per forward pass.
    """
    if isinstance(batch_size, FoundBatchSize) and batch_size > 1:
        return f"use `batch_size={batch_size // 2}`"
    return AUTO_ADVICE if batch_size > 1 else None
