"""Data loader with bit-identical batches for any number of workers; errors name the image."""

import multiprocessing
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader

from gcnet.children import FROM_TERMINAL, signals_blocked
from gcnet.data.dataset import ClassificationDataset, Item, SeededDataset, Skipped
from gcnet.data.sampler import EpochSampler, EvaluationSampler
from gcnet.data.worker_supervision import WorkerWatch, describe_shared_memory, end_workers_at_exit
from gcnet.errors import Failure

TIMEOUT = 300.0

_DEAD_WORKERS = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")
_SILENT_WORKERS = "DataLoader timed out"


class LoadingError(Failure):
    """A data-loader worker died or timed out."""


@dataclass(frozen=True)
class Batch:
    """A batch of labeled images; N is 0 if all of them were unreadable.

    Attributes:
        images: Float32 (N, 3, H, W).
        labels: Class indices, int64 (N,).
        names: Names of the N images.
        skipped: Unreadable images of the batch.
    """

    images: Float[Tensor, "n channels height width"]
    labels: Int[Tensor, " n"]
    names: list[str]
    skipped: list[Skipped]

    def __len__(self) -> int:
        return len(self.names)

    def pin_memory(self) -> "Batch":
        """Return a copy in page-locked memory, for faster transfer to a GPU."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


B = TypeVar("B")


def collate(items: Sequence[Item], *, image_size: int = 0) -> Batch:
    """Stack samples into a batch; unreadable ones are listed as skipped.

    Args:
        items: Items of a `ClassificationDataset`, with images of one shape.
        image_size: Side of the images of an empty batch, in pixels.

    Returns:
        The batch.
    """
    whole = [item for item in items if isinstance(item, dict)]
    images = [item["image"] for item in whole]
    return Batch(
        images=torch.stack(images) if images else torch.zeros(0, 3, image_size, image_size),
        labels=torch.tensor([item["label"] for item in whole], dtype=torch.int64),
        names=[item["name"] for item in whole],
        skipped=[item for item in items if isinstance(item, Skipped)],
    )


def build_loader(
    dataset: ClassificationDataset,
    batch_sampler: EpochSampler | EvaluationSampler,
    workers: int = 0,
    *,
    timeout: float = TIMEOUT,
    pin_memory: bool = False,
    image_size: int = 0,
) -> "Loader[Batch]":
    """Build a loader of labeled images.

    Args:
        dataset: The samples.
        batch_sampler: Keys of each batch.
        workers: Worker processes; 0 loads in the calling process.
        timeout: Seconds without a batch after which workers count as hanging.
        pin_memory: Whether to put batches into page-locked memory.
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
        collate_items=partial(collate, image_size=image_size),
    )


class Loader(Generic[B]):
    """`torch.utils.data.DataLoader` with supervised workers: if one dies or hangs, the error names the image.

    Workers stay alive between iterations. They ignore SIGINT, SIGTERM and SIGHUP, which the main process handles: it
    saves first, then stops them. The random state of the main process is not changed.

    Args:
        dataset: The samples.
        batch_sampler: Keys of each batch.
        workers: Worker processes; 0 loads in the calling process.
        collate_items: Makes a batch of a list of items.
        timeout: Seconds without a batch after which workers count as hanging.
        pin_memory: Whether to put batches into page-locked memory.

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
    ) -> None:
        self._watch = WorkerWatch(dataset, workers)
        self._children: dict[int | None, Any] = {}
        self._loader: DataLoader[Any] = DataLoader(
            self._watch if workers else dataset,
            batch_sampler=batch_sampler,
            num_workers=workers,
            collate_fn=collate_items,
            pin_memory=pin_memory,
            timeout=timeout if workers else 0,
            worker_init_fn=self._watch.begin if workers else None,
            # torch draws a seed for the workers, which would move the global generator.
            generator=torch.Generator().manual_seed(0),
            persistent_workers=workers > 0,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[B]:
        try:
            # Until `_Watch.begin` runs, a worker would otherwise obey them.
            with signals_blocked("SIGTERM", *FROM_TERMINAL):
                iterator = iter(self._loader)
            end_workers_at_exit(self._watch)
            self._children = {child.pid: child for child in multiprocessing.active_children()}
            while (batch := next(iterator, None)) is not None:
                yield batch
        except RuntimeError as error:
            explained = self._explain(str(error))
            if explained is None:
                raise
            self._watch.end_workers()
            raise LoadingError(explained) from error

    def _explain(self, text: str) -> str | None:
        if match := _DEAD_WORKERS.match(text):
            pids = [int(pid) for pid in match[1].split(",")]
            how = self._end_of(pids)
            advice = "`workers=0` loads in the main process and shows the full error"
            if "SIGBUS" in how or "Bus error" in text:
                advice = describe_shared_memory()
            elif "SIGKILL" in how:
                advice = "the system may be out of memory: try a smaller `workers` or `batch_size`"
            return f"a data-loader worker {how} {self._watch.describe(pids)}; {advice}"
        if text.startswith(_SILENT_WORKERS):
            return f"no data-loader worker responded for {self._loader.timeout:g} s, {self._watch.describe()}"
        return None

    def _end_of(self, pids: Sequence[int]) -> str:
        codes = {child.exitcode for pid, child in self._children.items() if pid in pids} - {None}
        ends = [
            f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended ({code})" for code in codes if code
        ]
        return " or ".join(ends) or "ended unexpectedly"
