"""Supervision of data-loader workers: current image, signals, termination."""

import atexit
import ctypes
import multiprocessing
import os
import shutil
import signal
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.queues import Queue
from typing import Any
from weakref import WeakSet

from torch.utils.data import Dataset

from gcnet.data.dataset import Item, SeededDataset
from gcnet.data.sampler import Key
from gcnet.errors import out_of_memory

NO_MEMORY = 12
"""Exit code of a worker without memory to send its batch."""


class WorkerWatch(Dataset[Item]):
    """The data set as workers see it: each worker records the index of its current image in shared memory.

    Args:
        dataset: The samples.
        workers: Number of worker processes.
    """

    def __init__(self, dataset: SeededDataset, workers: int) -> None:
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
        """Initialize the worker with number `worker`; called once in each worker process."""
        self._worker = worker
        self._pids[worker] = os.getpid()
        queues: Any = Queue
        queues._on_queue_feeder_error = staticmethod(_end_without_batch)
        for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        if hasattr(signal, "sigwaitinfo"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before any thread starts: it inherits the mask
            threading.Thread(target=_end_on_the_parents_sigterm, daemon=True).start()
        threading.Thread(target=_end_with_the_parent, daemon=True).start()

    def describe(self, pids: Sequence[int] | None = None) -> str:
        """Describe the images that workers are reading.

        Args:
            pids: Process ids of the workers (default: all).

        Returns:
            A phrase, such as 'while reading "cat.jpg" (index 3)'.
        """
        indices = [index for pid, index in zip(self._pids, self._indices, strict=True) if pids is None or pid in pids]
        named = [f'"{self.dataset.source.name(index)}" (index {index})' for index in indices if index >= 0]
        return "while reading " + ", ".join(named) if named else "between two images"

    def end_workers(self) -> None:
        """Terminate all workers, also hanging ones, which would block the exit of this process."""
        children = [child for child in multiprocessing.active_children() if child.pid in list(self._pids)]
        for child in children:
            child.terminate()
        for child in children:
            child.join(1.0)
            if child.is_alive():
                with suppress(RuntimeError):  # torch raises one in the main thread for each worker that is killed
                    child.kill()
                    child.join()


_watches: WeakSet[WorkerWatch] = WeakSet()


def _end_all_workers() -> None:
    for watch in _watches:
        watch.end_workers()


def end_workers_at_exit(watch: WorkerWatch) -> None:
    """Terminate the workers of `watch` before PyTorch's clean-up at exit, which waits five seconds for each."""
    _watches.add(watch)
    atexit.unregister(_end_all_workers)
    atexit.register(_end_all_workers)


def _end_without_batch(error: Exception, _batch: object) -> None:
    """End a worker that cannot send a batch, for which the main process would wait until the time is up."""
    if out_of_memory(error) is None:
        traceback.print_exception(error)
    os._exit(NO_MEMORY if out_of_memory(error) else 1)


def _end_on_the_parents_sigterm() -> None:
    """Wait for SIGTERM in a worker and obey it only from the parent process."""
    parent = multiprocessing.parent_process()  # also of a worker that a fork server has started
    while parent is None or signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)


def _end_with_the_parent() -> None:
    """End a worker whose parent process was killed; PyTorch misses it where a fork server has started the worker."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def describe_shared_memory() -> str:
    """Return the size of shared memory and the remedy if it is too small."""
    folder = "/dev/shm"
    size = f"{shutil.disk_usage(folder).total / 1e9:.2g} GB" if os.path.isdir(folder) else "no"
    return f"there is {size} shared memory: give the container more (docker run --shm-size=2g), or use `workers=0`"
