"""From images to batches, in this process or in workers: the same bits either way, and what fails is named."""

import atexit
import ctypes
import multiprocessing
import os
import re
import shutil
import signal
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gcnet.children import FROM_TERMINAL, signals_blocked
from gcnet.data.decode import ImageError
from gcnet.data.images import ImageSource
from gcnet.data.sampling import EpochSampler, EvaluationSampler, Key
from gcnet.data.seeding import mix_seed, preserved_random_state, seed_everything_for_sample
from gcnet.errors import Failure

TIMEOUT = 300.0

_DEAD_WORKERS = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")
_SILENT_WORKERS = "DataLoader timed out"


class LoadingError(Failure):
    """A loading process died or fell silent."""


@dataclass(frozen=True)
class Skipped:
    """An image that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """Images that belong together, and those that would have but for damage; there may be none left (N = 0)."""

    images: Float[Tensor, "n channels height width"]
    labels: Int[Tensor, " n"]
    names: list[str]
    skipped: list[Skipped]

    def __len__(self) -> int:
        return len(self.names)

    def pin_memory(self) -> "Batch":
        """A copy in page-locked memory, for faster transfer to a GPU (the loader calls it)."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


Item = dict[str, Any] | Skipped
B = TypeVar("B")


@runtime_checkable
class Named(Protocol):
    """A fixed sequence of images that have names."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What the image is called in messages and tables."""
        ...


class Samples(Dataset[Item]):
    """Samples of a source by key (epoch, index): dicts with a name, or Skipped.

    The global generators of python, numpy and torch are seeded from (seed, epoch, index) before each sample is made,
    and are given back as they were.

    Arguments:
        source: of the names; what else it is, `sample` knows.
        seed: of the random transforms.
    """

    def __init__(self, source: Named, *, seed: int = 0) -> None:
        self.source, self.seed = source, seed

    @abstractmethod
    def sample(self, index: int) -> dict[str, Any]:
        """What there is beside the name; raises ImageError for an image that cannot be read."""

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Key) -> Item:
        return self.load([index])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[Item]:
        return self.load(keys)

    def load(self, keys: Sequence[Key], *, announce: Callable[[int], None] | None = None) -> list[Item]:
        """The samples of several keys; `announce` is called with each index before it is read."""
        items: list[Item] = []
        with preserved_random_state():
            for epoch, index in keys:
                if announce is not None:
                    announce(index)
                items.append(self._load_one(epoch, index))
        return items

    def _load_one(self, epoch: int, index: int) -> Item:
        name = self.source.name(index)
        seed_everything_for_sample(mix_seed(self.seed, epoch, index))
        try:
            return {**self.sample(index), "name": name}
        except ImageError as error:
            return Skipped(name, error.reason)
        except Exception as error:
            error.add_note(f'while loading the image "{name}" (index {index})')
            raise


class Images(Samples):
    """Labelled images of a source: dict(image: float32 (3, H, W), label: int, name: str), or Skipped.

    Arguments:
        source: where images come from.
        transform: RGB image -> float32 (3, H, W).
        seed: of the random transforms.
    """

    def __init__(self, source: ImageSource, transform: Callable[[Image.Image], Tensor], *, seed: int = 0) -> None:
        super().__init__(source, seed=seed)
        self.labelled, self.transform = source, transform

    def sample(self, index: int) -> dict[str, Any]:
        """The transformed image and its label."""
        return {"image": self.transform(self.labelled.read(index)), "label": self.labelled.label(index)}


def collate(items: Sequence[Item], *, image_size: int = 0) -> Batch:
    """Put samples together; damaged ones are listed as skipped and replaced by nothing.

    Arguments:
        items: what `Images` gives; images of one shape.
        image_size: side that an empty batch states.
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
    dataset: Images,
    batch_sampler: EpochSampler | EvaluationSampler,
    workers: int = 0,
    *,
    timeout: float = TIMEOUT,
    pin_memory: bool = False,
    image_size: int = 0,
) -> "Loader[Batch]":
    """A loader of `dataset` in the order of `batch_sampler`.

    Arguments:
        dataset: the samples.
        batch_sampler: the keys of each batch; anything that can be iterated anew and yields lists of keys.
        workers: loading processes; 0 loads in this one.
        timeout: seconds without a batch after which the workers count as hanging.
        pin_memory: put batches into page-locked memory.
        image_size: side that an empty batch states.
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
    """Batches in the sampler's order; a worker that dies or hangs becomes one sentence that names the image.

    Workers stay alive from one iteration to the next. They ignore Ctrl-C, SIGTERM and SIGHUP, which the main process
    answers: it stops them once it has saved. The main process's random state is not touched.

    Raises:
        LoadingError: while iterating.
    """

    def __init__(
        self,
        dataset: Samples,
        batch_sampler: EpochSampler | EvaluationSampler,
        *,
        workers: int,
        collate_items: Callable[[Sequence[Item]], B],
        timeout: float = TIMEOUT,
        pin_memory: bool = False,
    ) -> None:
        self._watch = _Watch(dataset, workers)
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
            _end_workers_at_exit(self._watch)
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
        if found := _DEAD_WORKERS.match(text):
            pids = [int(pid) for pid in found[1].split(",")]
            how = self._end_of(pids)
            advice = "--workers 0 loads in the main process and shows more"
            if "SIGBUS" in how or "Bus error" in text:
                advice = _shared_memory()
            elif "SIGKILL" in how:
                advice = "the system may be out of memory: try a smaller --workers or --batch-size"
            return f"a loading process {how} {self._watch.describe(pids)}; {advice}"
        if text.startswith(_SILENT_WORKERS):
            return f"no loading process answered for {self._loader.timeout:g} s, {self._watch.describe()}"
        return None

    def _end_of(self, pids: Sequence[int]) -> str:
        codes = {child.exitcode for pid, child in self._children.items() if pid in pids} - {None}
        ends = [
            f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended ({code})" for code in codes if code
        ]
        return " or ".join(ends) or "ended unexpectedly"


class _Watch(Dataset[Item]):
    """The dataset as workers see it: each writes down in shared memory which image it is at."""

    def __init__(self, dataset: Samples, workers: int) -> None:
        self.dataset = dataset
        self._worker = 0
        # Shared memory is a file, which a full or read-only disk refuses: without workers there is none.
        self._pids: Any = multiprocessing.RawArray(ctypes.c_longlong, [0] * workers) if workers else []
        self._indices: Any = multiprocessing.RawArray(ctypes.c_longlong, [-1] * workers) if workers else []

    def __getitems__(self, keys: Sequence[Key]) -> list[Item]:
        items = self.dataset.load(keys, announce=self._announce)
        self._announce(-1)
        return items

    def _announce(self, index: int) -> None:
        self._indices[self._worker] = index

    def begin(self, worker: int) -> None:
        """Called once in each worker."""
        self._worker = worker
        self._pids[worker] = os.getpid()
        for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        if hasattr(signal, "sigwaitinfo"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_end_on_the_parents_sigterm, daemon=True).start()

    def describe(self, pids: Sequence[int] | None = None) -> str:
        """What the workers of these process ids (by default all) were at."""
        indices = [index for pid, index in zip(self._pids, self._indices, strict=True) if pids is None or pid in pids]
        named = [f'"{self.dataset.source.name(index)}" (index {index})' for index in indices if index >= 0]
        return "while reading " + ", ".join(named) if named else "between two images"

    def end_workers(self) -> None:
        """End the workers at once, also one that hangs: it would keep this process waiting at its own end."""
        children = [child for child in multiprocessing.active_children() if child.pid in list(self._pids)]
        for child in children:
            child.terminate()
        for child in children:
            child.join(1.0)
            if child.is_alive():
                with suppress(RuntimeError):  # torch raises one in the main thread for each worker that is killed
                    child.kill()
                    child.join()


_watches: WeakSet[_Watch] = WeakSet()


def _end_all_workers() -> None:
    for watch in _watches:
        watch.end_workers()


def _end_workers_at_exit(watch: _Watch) -> None:
    """Have the workers ended before torch's own clean-up at exit, which would wait five seconds for each."""
    _watches.add(watch)
    atexit.unregister(_end_all_workers)
    atexit.register(_end_all_workers)


def _end_on_the_parents_sigterm() -> None:
    """Wait in a worker for SIGTERM and obey only its parent's: another sender means the main process, which decides."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _shared_memory() -> str:
    folder = "/dev/shm"
    size = f"{shutil.disk_usage(folder).total / 1e9:.2g} GB" if os.path.isdir(folder) else "no"
    return f"there is {size} shared memory: give the container more (docker run --shm-size=2g), or use --workers 0"
