"""What each network of a comparison costs: parameters, FLOPs, time side by side, memory in a process of its own."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from gcnet.analysis.cost import analytic_flops, count_flops, count_parameters, submodule_input_shapes
from gcnet.analysis.memory import training_step_peak_memory
from gcnet.analysis.timing import (
    Numerics,
    Timing,
    fill_zero_parameters,
    forward_call,
    interleaved_times,
    training_step_call,
)
from gcnet.compare.plan import Builders, create_variant
from gcnet.compare.settings import CompareSettings
from gcnet.models.insertion import insertion_records
from gcnet.models.residual.position import Positioned
from gcnet.report.results import BASELINE, Cost
from gcnet.training.loop import AUTOCAST

TIMED_BATCH, REPETITIONS, SECONDS = 16, 15, 20.0


@dataclass(frozen=True)
class Circumstances:
    """What the networks are measured on."""

    num_classes: int
    image_size: int
    batch_size: int
    device: str
    jobs: int


def measure_costs(
    settings: CompareSettings, builders: Builders, on: Circumstances
) -> tuple[dict[str, Cost], dict[str, int]]:
    """The cost of every block's network, and the batches and repetitions that times and memory were measured with."""
    blocks = settings.block_names()
    numerics = Numerics(AUTOCAST[settings.precision], settings.channels_last)
    with torch.random.fork_rng(devices=[]):
        models = {block: create_variant(settings, block, builders, on.num_classes) for block in blocks}
        plain = create_variant(settings, BASELINE, builders, on.num_classes)
    images = torch.randn(min(TIMED_BATCH, on.batch_size), 3, on.image_size, on.image_size, device=on.device)
    for model in models.values():
        fill_zero_parameters(model)
        model.to(on.device)
    forward = interleaved_times(
        {block: forward_call(model, images, numerics) for block, model in models.items()},
        repetitions=REPETITIONS,
        seconds=SECONDS,
        device=on.device,
    )
    step = interleaved_times(
        {block: training_step_call(model, images, numerics) for block, model in models.items()},
        repetitions=REPETITIONS,
        seconds=SECONDS,
        device=on.device,
    )
    peaks = _peak_memories(settings, builders, on, numerics)
    costs = {
        block: _cost(block, models[block], plain, (1, *images.shape[1:]), (forward[block], step[block]), peaks[block])
        for block in blocks
    }
    repetitions = min(timing.repetitions for timing in (*forward.values(), *step.values()))
    return costs, {"batch": len(images), "repetitions": repetitions, "memory_batch": on.batch_size}


def _peak_memories(
    settings: CompareSettings, builders: Builders, on: Circumstances, numerics: Numerics
) -> Mapping[str, int | None]:
    shape = (on.batch_size, 3, on.image_size, on.image_size)

    def peak(block: str) -> int | None:
        build = partial(create_variant, settings, block, builders, on.num_classes)
        return training_step_peak_memory(build, shape, device=on.device, numerics=numerics)

    with ThreadPoolExecutor(on.jobs) as pool:
        return dict(zip(settings.block_names(), pool.map(peak, settings.block_names()), strict=True))


def _cost(
    block: str,
    model: nn.Module,
    plain: nn.Module,
    shape: tuple[int, ...],
    times: tuple[Timing, Timing],
    peak_memory: int | None,
) -> Cost:
    forward, step = times
    flops, parameters = count_flops(model, shape), count_parameters(model)
    places = [f"{name}.context" for name, module in model.named_modules() if isinstance(module, Positioned)]
    return Cost(
        places=len(places),
        parameters=parameters,
        added_parameters=parameters - count_parameters(plain),
        flops=flops,
        added_flops=flops - count_flops(plain, shape),
        analytic_flops=_analytic(block, model, shape, places),
        forward_minimum=forward.minimum,
        forward_median=forward.median,
        step_minimum=step.minimum,
        step_median=step.median,
        peak_memory=peak_memory,
    )


def _analytic(block: str, model: nn.Module, shape: tuple[int, ...], places: Sequence[str]) -> int | None:
    """The sum of the block's formula over its places; None for a block without one."""
    records = insertion_records(model)
    ratio = next((record["ratio"] for record in records if record["ratio"] is not None), 16)
    total = 0
    for _, channels, *sides in submodule_input_shapes(model, shape, places).values():
        flops = analytic_flops(block, channels=channels, positions=torch.Size(sides).numel(), ratio=ratio)
        if flops is None:
            return None
        total += flops
    return total
