"""Times of several pieces of work that take turns on one device, and the memory that each needs."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Work = Callable[[], object]
WARM_UPS = 5  # runs before those that count: they compile, and choose algorithms


@dataclass(frozen=True)
class Measured:
    """Milliseconds of each run, and the most bytes allocated during one beyond those before it (None on a CPU)."""

    times: list[float]
    peak_bytes: int | None

    def quantile(self, share: float) -> float:
        """Milliseconds that this share of the runs did not exceed."""
        return float(torch.tensor(self.times).quantile(share))


def measure_in_turn(works: Mapping[str, Work], device: torch.device, repeats: int) -> dict[str, Measured]:
    """Run one of each in turn, `repeats` times after the warm-up."""
    time_once = _time_on_gpu if device.type == "cuda" else _time_on_cpu
    flush = torch.empty(2**28 if device.type == "cuda" else 1, device=device)
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(-WARM_UPS, repeats):
        for name, work in works.items():
            took = time_once(work, flush)
            if repeat >= 0:
                times[name].append(took)
    del flush
    return {name: Measured(times[name], _peak(work, device)) for name, work in works.items()}


def _time_on_gpu(work: Work, flush: torch.Tensor) -> float:
    """By CUDA events. A gigabyte is cleared before: the cache holds nothing of the input, and launches are queued."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    flush.zero_()
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def _time_on_cpu(work: Work, _: torch.Tensor) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def _peak(work: Work, device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
