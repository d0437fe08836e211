"""Time and memory of networks, their stages and blocks, interleaved in one process."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from gcnet.analysis.cost import submodule_input_shapes
from gcnet.analysis.cost_breakdown import block_paths
from gcnet.analysis.memory import peak_memory, training_step_peak_memory
from gcnet.analysis.timing import fill_zero_parameters, forward_call, interleaved_times, training_step_call
from gcnet.costs.networks import CountedNetwork
from gcnet.costs.report import CostReport

REPETITIONS, SECONDS = 15, 20.0
_STAGE = re.compile(r"layer\d+")


def measure_network(choices: Sequence[CountedNetwork], bills: Sequence[CostReport], device: str) -> list[CostReport]:
    """Add times and peak memory to the costs of networks.

    Times are medians of interleaved calls; a step is forward, backward and update. Stages of residual networks and
    context blocks are also timed alone on random maps of their input shape: forward, and forward and backward.

    Args:
        choices: the networks.
        bills: their costs, all for one image size and batch size.
        device: such as "cpu" or "cuda:0".

    Returns:
        The costs with measurements.
    """
    size, batch = bills[0].size, bills[0].batch
    timed = [_timed(choice, size, batch, device) for choice in choices]
    values: list[dict[str, dict[str, float]]] = [{part: {} for part in parts} for parts in timed]
    for key, make in (("forward_seconds", forward_call), ("step_seconds", _step_call)):
        calls = {
            f"{index} {part}": make(module, images)
            for index, parts in enumerate(timed)
            for part, (module, images) in parts.items()
        }
        for name, times in interleaved_times(calls, repetitions=REPETITIONS, seconds=SECONDS, device=device).items():
            index, part = name.split(" ", 1)
            values[int(index)][part] |= {key: times.median, f"{key}_q1": times.lower, f"{key}_q3": times.upper}
    for choice, found in zip(choices, values, strict=True):
        found["total"] |= _peaks(choice, size, batch, device)
    return [_added(bill, found) for bill, found in zip(bills, values, strict=True)]


def _added(bill: CostReport, values: Mapping[str, Mapping[str, float]]) -> CostReport:
    lines = (replace(line, values={**line.values, **values.get(line.part, {})}) for line in bill.lines)
    return replace(bill, lines=tuple(lines))


def _timed(
    choice: CountedNetwork, size: tuple[int, int], batch: int, device: str
) -> dict[str, tuple[nn.Module, Tensor]]:
    """The timed modules and their inputs by row name: the whole network, stages, blocks."""
    model = choice.sized(size).build().to(device)
    network = _as_measured(choice, model, size)
    inputs: dict[tuple[int, ...], Tensor] = {}  # maps of one shape are one tensor
    timed = {"total": (network, torch.randn(batch, 3, *size, device=device))}
    for path, (part, shape) in _parts(choice, model, size, batch).items():
        images = inputs.setdefault(shape, torch.randn(shape, device=device, requires_grad=True))
        timed[part] = model.get_submodule(path), images
    return timed


def _parts(
    choice: CountedNetwork, model: nn.Module, size: tuple[int, int], batch: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """By the path of each stage and block the name of its line, and the shape of its input."""
    paths = {path: stage for path, stage in choice.task.costs.stages(model).items() if _STAGE.fullmatch(stage)}
    body, prefix, size = choice.task.costs.body(model, size)
    paths |= {path: path for path in block_paths(model) if path.startswith(prefix)}
    names = [path.removeprefix(prefix) for path in paths]
    shapes = submodule_input_shapes(body, (batch, 3, *size), names)
    return {path: (paths[path], shapes[path.removeprefix(prefix)]) for path in paths}


def _step_call(module: nn.Module, images: Tensor) -> Callable[[], object]:
    """A training step of a network; of a part, which is given a map that needs a gradient, without the update."""
    if not images.requires_grad:
        return training_step_call(module, images)
    wanted = [images, *(parameter for parameter in module.parameters() if parameter.requires_grad)]

    def call() -> object:
        module.train()
        return torch.autograd.grad(module(images).float().square().mean(), wanted)

    return call


def _peaks(choice: CountedNetwork, size: tuple[int, int], batch: int, device: str) -> dict[str, float]:
    shape = (batch, 3, *size)
    found = {
        "forward_peak_bytes": peak_memory(partial(_forward, choice, size, batch, device), device=device),
        "step_peak_bytes": training_step_peak_memory(partial(_runnable, choice, size), shape, device=device),
    }
    return {key: value for key, value in found.items() if value is not None}


def _forward(choice: CountedNetwork, size: tuple[int, int], batch: int, device: str) -> Callable[[], object]:
    return forward_call(_runnable(choice, size).to(device), torch.randn(batch, 3, *size, device=device))


def _runnable(choice: CountedNetwork, size: tuple[int, int]) -> nn.Module:
    return _as_measured(choice, choice.sized(size).build(), size)


def _as_measured(choice: CountedNetwork, model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """A network for measurements: new blocks are not zero, and images keep their size."""
    fill_zero_parameters(model)
    return choice.task.costs.measured(model, 1, size)
