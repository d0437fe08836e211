"""Speed of a run: images per second, the share of time spent waiting for data, and GPU memory."""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

SPEED_KEYS = ("images_per_second", "data_wait_fraction", "gpu_memory_bytes")
"""Keys of the speed in rows of metrics.jsonl; the last one only on a GPU."""

_KEPT = 0.9  # weight of earlier steps in the moving averages of the progress line
_SHOWN_WAIT = 0.1

_B = TypeVar("_B")


@dataclass
class _Interval:
    """Time since `began`, of which `waited` seconds were spent waiting for data."""

    began: float
    waited: float = 0.0

    def end(self, images: int) -> tuple[float, float]:
        """Begin again, and return images per second and the share of waiting, 0 to 1, of the time before."""
        now = time.monotonic()
        seconds = max(now - self.began, 1e-9)
        speed, share = images / seconds, min(1.0, self.waited / seconds)
        self.began, self.waited = now, 0.0
        return speed, share


class Pace:
    """Measures the speed of a run, in this process.

    Args:
        device: of the network.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        now = time.monotonic()
        self._row, self._step = _Interval(now), _Interval(now)
        self._averages: tuple[float, float] | None = None

    def next_batch(self, batches: Iterator[_B]) -> _B:
        """Return the next of `batches`; the time until it is there counts as waiting for data."""
        began = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - began
        self._row.waited += waited
        self._step.waited += waited
        return batch

    @contextmanager
    def paused(self) -> Generator[None]:
        """Leave out the time of an evaluation."""
        began = time.monotonic()
        yield
        for interval in (self._row, self._step):
            interval.began += time.monotonic() - began

    def row(self, images: int) -> dict[str, Any]:
        """Return the speed since the last row by the keys `SPEED_KEYS`, and begin the next one.

        Args:
            images: number of images since the last row, of all processes.
        """
        speed, share = self._row.end(images)
        row: dict[str, Any] = {"images_per_second": round(speed, 2), "data_wait_fraction": round(share, 4)}
        if self._device.type == "cuda":
            row["gpu_memory_bytes"] = torch.cuda.max_memory_allocated(self._device)
        return row

    def describe_step(self, images: int) -> str:
        """Return the speed of the last steps (a moving average), and the wait for data from a tenth of the time on.

        Args:
            images: number of images of the last step, of all processes.
        """
        latest = self._step.end(images)
        earlier = self._averages or latest
        speed, share = (_KEPT * old + (1 - _KEPT) * new for old, new in zip(earlier, latest, strict=True))
        self._averages = speed, share
        parts = [f"{speed:.3g} images/s"]
        if share >= _SHOWN_WAIT:
            parts.append(f"{share:.0%} waiting for data")
        if self._device.type == "cuda":
            parts.append(f"{torch.cuda.max_memory_allocated(self._device) / 1e9:.1f} GB")
        return "  ".join(parts)
