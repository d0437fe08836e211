"""Supervision of DataLoader workers: the image each is reading, signals, and their end."""

import atexit
import ctypes
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from torch.utils.data import Dataset

from gcnet.data.dataset import Item, SeededDataset
from gcnet.data.sampler import Key


class WorkerWatch(Dataset[Item]):
    """The dataset as workers see it: each writes down in shared memory which image it is at."""

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


_watches: WeakSet[WorkerWatch] = WeakSet()


def _end_all_workers() -> None:
    for watch in _watches:
        watch.end_workers()


def end_workers_at_exit(watch: WorkerWatch) -> None:
    """Have the workers ended before torch's own clean-up at exit, which would wait five seconds for each."""
    _watches.add(watch)
    atexit.unregister(_end_all_workers)
    atexit.register(_end_all_workers)


def _end_on_the_parents_sigterm() -> None:
    """Wait in a worker for SIGTERM and obey only its parent's: another sender means the main process, which decides."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def describe_shared_memory() -> str:
    """How much shared memory there is, and what to do where it is too little."""
    folder = "/dev/shm"
    size = f"{shutil.disk_usage(folder).total / 1e9:.2g} GB" if os.path.isdir(folder) else "no"
    return f"there is {size} shared memory: give the container more (docker run --shm-size=2g), or use --workers 0"
