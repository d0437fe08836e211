"""Data loader with bit-identical batches for any number of workers; errors name the image."""

import math
import multiprocessing
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from gcnet.children import FROM_TERMINAL, available_cores, collector_frozen, signals_blocked
from gcnet.data.dataset import ClassificationDataset, Item, SeededDataset, Skipped
from gcnet.data.sampler import EpochSampler, EvaluationSampler
from gcnet.data.transforms import Normalize, Rectangle, erase
from gcnet.data.worker_supervision import NO_MEMORY, WorkerWatch, describe_shared_memory, end_workers_at_exit
from gcnet.errors import Failure, UserError

TIMEOUT = 300.0
_MOST_WORKERS = 8  # by default

_DEAD_WORKERS = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")
_SILENT_WORKERS = "DataLoader timed out"
_NO_SHARED_MEMORY = "unable to allocate shared memory"


class LoadingError(Failure):
    """A data-loader worker died or timed out."""


@dataclass(frozen=True)
class Batch:
    """A batch of labeled images; N is 0 if all of them were unreadable.

    Attributes:
        images: uint8 (N, 3, H, W), or float32 if they are normalized already.
        labels: Class indices, int64 (N,).
        names: Names of the N images.
        skipped: Unreadable images of the batch.
        normalize: Normalization of uint8 images; None for images that are normalized.
        erased: Rectangle to erase in each image after normalization; empty for none.
    """

    images: Shaped[Tensor, "n channels height width"]
    labels: Int[Tensor, " n"]
    names: list[str]
    skipped: list[Skipped]
    normalize: Normalize | None = None
    erased: list[Rectangle | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def inputs(
        self, device: torch.device | str = "cpu", *, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Float[Tensor, "n channels height width"]:
        """Return the normalized images, computed on `device` with the same bits on each.

        Args:
            device: Device of the network.
            memory_format: Contiguous or channels-last.
        """
        images = self.images.to(device, non_blocking=True)
        if self.normalize is not None:
            images = erase(self.normalize(images), self.erased)
        return images.contiguous(memory_format=memory_format)

    def pin_memory(self) -> "Batch":
        """Return a copy in page-locked memory, for faster transfer to a GPU."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


B = TypeVar("B")


def choose_workers(
    workers: int | None, device: torch.device, *, batches: int | None = None, in_memory: bool = False
) -> int:
    """Return the number of data-loader workers of this process.

    Args:
        workers: The number by the settings; None chooses one.
        device: Device of the network. On a CPU, the network needs the cores.
        batches: Number of batches of an epoch, beyond which more workers have no work.
        in_memory: Whether the images are in memory, so that reading them costs less than sending them.

    Returns:
        The number of the settings. If it is None: on a GPU the number of CPU cores of this process, at most 8; else 0.
    """
    if workers is not None:
        return workers
    if device.type == "cpu" or in_memory:
        return 0
    limits = [_MOST_WORKERS, available_cores(), *([] if batches is None else [batches])]
    return min(limits)


def _start_method() -> str | None:
    """Fork on Linux, also in Python 3.14, which would pickle the data set for each worker; None if another was set."""
    is_set = multiprocessing.get_start_method(allow_none=True) is not None
    return "fork" if sys.platform == "linux" and not is_set else None


def collate(items: Sequence[Item], normalize: Normalize, *, image_size: int = 0) -> Batch:
    """Stack samples into a batch; unreadable ones are listed as skipped.

    Args:
        items: Items of a `ClassificationDataset`, with images of one shape.
        normalize: Normalization of the images.
        image_size: Side of the images of an empty batch, in pixels.

    Returns:
        The batch.
    """
    whole = [item for item in items if isinstance(item, dict)]
    return Batch(
        images=_stack([item["image"] for item in whole], image_size),
        labels=torch.tensor([item["label"] for item in whole], dtype=torch.int64),
        names=[item["name"] for item in whole],
        skipped=[item for item in items if isinstance(item, Skipped)],
        normalize=normalize,
        erased=[item["erased"] for item in whole],
    )


def _stack(images: Sequence[UInt8[Tensor, "3 h w"]], size: int) -> UInt8[Tensor, "n 3 h w"]:
    """Stack images; in memory, the channels of a pixel stay neighbors (channels-last)."""
    if not images:
        return torch.zeros(0, 3, size, size, dtype=torch.uint8)
    shape = (len(images), *images[0].shape[1:], 3)
    stacked = torch.empty(0, dtype=torch.uint8)
    if get_worker_info() is not None:  # in a worker, shared memory from the start, as torch's own collation does
        stacked.set_(torch.UntypedStorage._new_shared(math.prod(shape))).resize_(shape)
    return torch.stack([image.permute(1, 2, 0) for image in images], out=stacked).permute(0, 3, 1, 2)


def build_loader(
    dataset: ClassificationDataset,
    batch_sampler: EpochSampler | EvaluationSampler,
    workers: int = 0,
    *,
    timeout: float = TIMEOUT,
    pin_memory: bool = False,
    persistent: bool = False,
    image_size: int = 0,
) -> "Loader[Batch]":
    """Build a loader of labeled images.

    Args:
        dataset: The samples.
        batch_sampler: Keys of each batch.
        workers: Worker processes; 0 loads in the calling process.
        timeout: Seconds without a batch after which workers count as hanging.
        pin_memory: Whether to put batches into page-locked memory.
        persistent: Whether workers stay alive between iterations.
        image_size: Side of the images of an empty batch, in pixels.

    Returns:
        Loader of `Batch`.
    """
    return Loader(
        dataset,
        batch_sampler,
        workers=workers,
        timeout=timeout,
        pin_memory=pin_memory,
        persistent=persistent,
        collate_items=partial(collate, normalize=dataset.transform.normalize, image_size=image_size),
    )


class Loader(Generic[B]):
    """`torch.utils.data.DataLoader` with supervised workers: if one dies or hangs, the error names the image.

    Workers ignore SIGINT, SIGTERM and SIGHUP, which the main process handles: it saves first, then stops them. The
    random state of the main process is not changed.

    Args:
        dataset: The samples.
        batch_sampler: Keys of each batch.
        workers: Worker processes; 0 loads in the calling process.
        collate_items: Makes a batch of a list of items.
        timeout: Seconds without a batch after which workers count as hanging.
        pin_memory: Whether to put batches into page-locked memory.
        persistent: Whether workers stay alive between iterations, as training needs; others then keep no processes.

    Raises:
        LoadingError: While iterating.
    """

    def __init__(
        self,
        dataset: SeededDataset,
        batch_sampler: EpochSampler | EvaluationSampler,
        *,
        workers: int,
        collate_items: Callable[[Sequence[Item]], B],
        timeout: float = TIMEOUT,
        pin_memory: bool = False,
        persistent: bool = False,
    ) -> None:
        self._watch = WorkerWatch(dataset, workers)
        self._children: dict[int | None, Any] = {}
        self._timeout = timeout
        self._loader: DataLoader[Any] = DataLoader(
            self._watch if workers else dataset,
            batch_sampler=batch_sampler,
            num_workers=workers,
            collate_fn=collate_items,
            pin_memory=pin_memory,
            timeout=timeout / 2 if workers else 0,
            worker_init_fn=self._watch.begin if workers else None,
            # torch draws a seed for the workers, which would move the global generator.
            generator=torch.Generator().manual_seed(0),
            persistent_workers=persistent and workers > 0,
            multiprocessing_context=_start_method() if workers else None,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[B]:
        try:
            # Until `_Watch.begin` runs, a worker would otherwise obey them.
            with signals_blocked("SIGTERM", *FROM_TERMINAL), collector_frozen():
                iterator = iter(self._loader)
            end_workers_at_exit(self._watch)
            self._children = {child.pid: child for child in multiprocessing.active_children()}
            while (batch := _next_batch(iterator)) is not None:
                yield batch
        except GeneratorExit:  # the rest of the epoch is not wanted; workers that persist load the next one
            raise
        except BaseException as error:
            explained = self._explained(error)
            self._watch.end_workers()
            if explained is error:
                raise
            raise explained from error

    def _explained(self, error: BaseException) -> BaseException:
        """The error to raise for one of a worker."""
        if isinstance(error, RuntimeError):
            sentence = self._explain(str(error))
            return error if sentence is None else LoadingError(sentence)
        if isinstance(error, UserError):  # torch puts the traceback of a worker into the message
            found = re.findall(rf"^\S*\b{type(error).__name__}: (.*)", str(error), re.MULTILINE)
            return type(error)(found[-1]) if found else error
        return error

    def _explain(self, text: str) -> str | None:
        if match := _DEAD_WORKERS.match(text):
            pids = [int(pid) for pid in match[1].split(",")]
            how = self._end_of(pids)
            advice = "`workers=0` loads in the main process and shows the full error"
            if "SIGBUS" in how or "Bus error" in text:
                advice = describe_shared_memory()
            elif "SIGKILL" in how:
                advice = "the system may be out of memory: try a smaller `workers` or `batch_size`"
            elif f"({NO_MEMORY})" in how:
                advice = "it was out of memory: try a smaller `workers` or `batch_size`"
            return f"a data-loader worker {how} {self._watch.describe(pids)}; {advice}"
        if _NO_SHARED_MEMORY in text:
            return f"a data-loader worker has no memory for its batch; {describe_shared_memory()}"
        if text.startswith(_SILENT_WORKERS):
            return f"no data-loader worker responded for {self._timeout:g} s, {self._watch.describe()}"
        return None

    def _end_of(self, pids: Sequence[int]) -> str:
        codes = {child.exitcode for pid, child in self._children.items() if pid in pids} - {None}
        ends = [
            f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended ({code})" for code in codes if code
        ]
        return " or ".join(ends) or "ended unexpectedly"


def _next_batch(iterator: Iterator[B]) -> B | None:
    """The next batch, None at the end; raises at the second timeout: the first can be that of a stop by Ctrl-Z."""
    try:
        return next(iterator, None)
    except RuntimeError as error:
        if not str(error).startswith(_SILENT_WORKERS):
            raise
        return next(iterator, None)
