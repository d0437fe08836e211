"""Times of several pieces of work that take turns on one device, and the memory that each needs."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Work = Callable[[], object]
WARM_UPS = 5  # runs before those that count: they compile, and choose algorithms


@dataclass(frozen=True)
class Limits:
    """How long to measure.

    Attributes:
        repeats: runs of each that count, at most.
        seconds: for all runs of a case that count; two of each are made in any case.
        end: of `time.perf_counter`, after which no other work is warmed up.
    """

    repeats: int
    seconds: float
    end: float

    @property
    def over(self) -> bool:
        """Whether the end has passed."""
        return time.perf_counter() >= self.end


@dataclass(frozen=True)
class Measured:
    """Milliseconds of each run, and the most bytes allocated during one beyond those before it (None on a CPU)."""

    times: list[float]
    peak_bytes: int | None

    def quantile(self, share: float) -> float:
        """Milliseconds that this share of the runs did not exceed."""
        return float(torch.tensor(self.times).quantile(share))


def measure_in_turn(works: Mapping[str, Work], device: torch.device, limits: Limits) -> dict[str, Measured]:
    """Warm up each work, then run one of each in turn.

    A work that fails in its warm-up, or for which no time is left, is left out, with a line on stderr.
    """
    ready = {name: work for name, work in works.items() if _warm_up(name, work, device, limits)}
    time_once = _time_on_gpu if device.type == "cuda" else _time_on_cpu
    flush = torch.empty(2**28 if device.type == "cuda" else 1, device=device)
    times: dict[str, list[float]] = {name: [] for name in ready}
    end = time.perf_counter() + limits.seconds
    for repeat in range(limits.repeats):
        if repeat >= 2 and time.perf_counter() >= end:
            break
        for name, work in ready.items():
            times[name].append(time_once(work, flush))
    del flush
    return {name: Measured(times[name], _peak(work, device)) for name, work in ready.items()}


def _warm_up(name: str, work: Work, device: torch.device, limits: Limits) -> bool:
    if limits.over:
        print(f"{name}: left out, the time is over", file=sys.stderr)
        return False
    try:
        for _ in range(WARM_UPS):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError as error:  # out of memory, or torch.compile
        print(f"{name}: left out, {type(error).__name__}: {str(error).partition(chr(10))[0]}", file=sys.stderr)
        return False
    return True


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
