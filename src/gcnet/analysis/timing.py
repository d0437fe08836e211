"""Times of forward passes and training steps, interleaved in one process."""

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Timing:
    """Seconds of one call over some repetitions.

    Attributes:
        minimum: the minimum.
        median: the median.
        repetitions: number of repetitions.
        lower: lower quartile.
        upper: upper quartile.
    """

    minimum: float
    median: float
    repetitions: int
    lower: float
    upper: float


def interleaved_times(
    calls: Mapping[str, Callable[[], object]],
    *,
    repetitions: int,
    warm_up: int = 2,
    seconds: float = math.inf,
    device: str = "cpu",
) -> dict[str, Timing]:
    """Return the times of calls, measured by `interleaved_seconds`.

    Args:
        calls: by name.
        repetitions: number of timed rounds.
        warm_up: number of rounds before them.
        seconds: time limit, after at least three timed rounds.
        device: such as "cpu" or "cuda:0", which is synchronized.

    Returns:
        Times by name.
    """
    found = interleaved_seconds(calls, repetitions=repetitions, warm_up=warm_up, seconds=seconds, device=device)
    return {name: _timing(values) for name, values in found.items()}


def _timing(seconds: list[float]) -> Timing:
    lower, middle, upper = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    return Timing(min(seconds), middle, len(seconds), lower, upper)


def interleaved_seconds(
    calls: Mapping[str, Callable[[], object]],
    *,
    repetitions: int,
    warm_up: int = 2,
    seconds: float = math.inf,
    device: str = "cpu",
) -> dict[str, list[float]]:
    """Return the seconds of calls that are timed in turns, so that a busy moment of the machine affects all of them.

    Each round has its own order of calls, so that no call always follows the same other one.

    Args:
        calls: by name.
        repetitions: number of timed rounds.
        warm_up: number of rounds before them.
        seconds: time limit, after at least three timed rounds.
        device: such as "cpu" or "cuda:0", which is synchronized.

    Returns:
        The seconds of each call by round, by name.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    order, shuffle = list(calls), random.Random(0).shuffle
    started = time.perf_counter()
    for turn in range(warm_up + repetitions):
        if turn >= warm_up + 3 and time.perf_counter() - started > seconds:
            break
        shuffle(order)
        for name in order:
            taken = _seconds(calls[name], device)
            if turn >= warm_up:
                found[name].append(taken)
    return found


@dataclass(frozen=True)
class Precision:
    """Precision and memory format of a network.

    Attributes:
        autocast: dtype of autocast; None for the network's own.
        channels_last: whether maps are in channels_last memory format.
    """

    autocast: torch.dtype | None = None
    channels_last: bool = False

    def run(self, model: nn.Module, images: Tensor) -> Any:
        """Return `model(images)` in this precision.

        Args:
            model: the network.
            images: (N, 3, H, W).

        Returns:
            Output of the network.
        """
        if self.autocast is None:
            return model(images)
        with torch.autocast(images.device.type, dtype=self.autocast):
            return model(images)

    def arrange(self, thing: Any) -> Any:
        """Return `thing`, a network or images (N, 3, H, W), in the memory format."""
        return thing.to(memory_format=torch.channels_last) if self.channels_last else thing


PLAIN = Precision()


def forward_call(model: nn.Module, images: Tensor, precision: Precision = PLAIN) -> Callable[[], object]:
    """Return a call that runs a network in evaluation mode without gradients.

    Args:
        model: the network.
        images: (N, 3, H, W).
        precision: of the forward pass.

    Returns:
        The call.
    """
    model, images = precision.arrange(model.eval()), precision.arrange(images)

    def call() -> object:
        with torch.inference_mode():
            return precision.run(model, images)

    return call


def training_step_call(model: nn.Module, images: Tensor, precision: Precision = PLAIN) -> Callable[[], object]:
    """Return a call that does a training step: forward, backward and an update by SGD with momentum.

    The learning rate is so small that weights stay finite; it does not change the arithmetic.

    Args:
        model: the network.
        images: (N, 3, H, W).
        precision: of the step.

    Returns:
        The call.
    """
    model, images = precision.arrange(model), precision.arrange(images)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12, momentum=0.9)

    def call() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        precision.run(model, images).float().square().mean().backward()
        optimizer.step()

    return call


@torch.no_grad()
def fill_zero_parameters(model: nn.Module, *, seed: int = 0, scale: float = 0.02) -> int:
    """Fill every matrix of zeros with small random values, so that a new block is timed like a trained one.

    Multiplication by zeros can be faster than by other numbers.

    Args:
        model: the network.
        seed: of the values.
        scale: their standard deviation.

    Returns:
        Number of matrices filled.
    """
    generator = torch.Generator().manual_seed(seed)
    filled = 0
    for parameter in model.parameters():
        if parameter.ndim >= 2 and not parameter.any():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            filled += 1
    return filled


def _seconds(call: Callable[[], object], device: str) -> float:
    _wait(device)
    started = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
