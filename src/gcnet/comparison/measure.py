"""Costs of the networks of a comparison: parameters, FLOPs, interleaved times, peak memory."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from gcnet.analysis.cost import analytic_flops, count_parameters, submodule_input_shapes
from gcnet.analysis.memory import end_measurements, training_step_peak_memory
from gcnet.analysis.timing import (
    Precision,
    Timing,
    fill_zero_parameters,
    forward_call,
    interleaved_times,
    training_step_call,
)
from gcnet.comparison.plan import Variants, create_variant, training_settings
from gcnet.comparison.results import BASELINE, Cost
from gcnet.comparison.settings import CompareSettings
from gcnet.devices import AUTOCAST
from gcnet.insertion import inserted, insertion_records
from gcnet.tasks.base import Task
from gcnet.tasks.registry import task_of, with_defaults
from gcnet.training.optimizer import freeze

REPETITIONS, SECONDS = 15, 20.0


@dataclass(frozen=True)
class MeasurementSpec:
    """Conditions of the cost measurements.

    Attributes:
        num_classes: of the networks.
        image_size: height and width in pixels.
        batch_size: images per training step.
        device: such as "cpu" or "cuda:0".
        jobs: measurements of memory at a time.
        flops: counts the FLOPs of one image.
    """

    num_classes: int
    image_size: tuple[int, int]
    batch_size: int
    device: str
    jobs: int
    flops: Callable[[nn.Module], int]


def measure_costs(
    settings: CompareSettings,
    variants: Variants,
    spec: MeasurementSpec,
    *,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> tuple[dict[str, Cost], dict[str, int]]:
    """Measure the costs of every block.

    Args:
        settings: of the comparison.
        variants: by block name.
        spec: conditions.
        progress: called with finished measurements, their total, and the next measurement in words.

    Returns:
        Costs by block, and batch sizes and repetitions of times and memory.
    """
    blocks, task = settings.block_names(), task_of(settings.model)
    total = len(blocks) + 2
    progress(0, total, "measuring forward passes")
    precision = Precision(AUTOCAST[settings.machine.precision], bool(settings.machine.channels_last))
    with torch.random.fork_rng(devices=[]):
        networks = {block: create_variant(settings, block, variants, spec.num_classes) for block in blocks}
        plain = create_variant(settings, BASELINE, variants, spec.num_classes)
    models = {block: _runnable(settings, network, spec.num_classes) for block, network in networks.items()}
    batch = min(task.costs.timed_images, spec.batch_size)
    images = torch.randn(batch, 3, *spec.image_size, device=spec.device)
    for model in models.values():
        fill_zero_parameters(model)
        model.to(spec.device)
    forward = interleaved_times(
        {block: forward_call(model, images, precision) for block, model in models.items()},
        repetitions=REPETITIONS,
        seconds=SECONDS,
        device=spec.device,
    )
    progress(1, total, "measuring training steps")
    step = interleaved_times(
        {block: training_step_call(model, images, precision) for block, model in models.items()},
        repetitions=REPETITIONS,
        seconds=SECONDS,
        device=spec.device,
    )
    peaks = {}
    for block, peak in zip(blocks, _peak_memories(settings, variants, spec, precision), strict=True):
        progress(len(peaks) + 2, total, f"measuring the memory of {block}")
        peaks[block] = peak
    costs = {
        block: _cost(task, block, networks[block], plain, spec, (forward[block], step[block]), peaks[block])
        for block in blocks
    }
    repetitions = min(timing.repetitions for timing in (*forward.values(), *step.values()))
    return costs, {"batch_size": len(images), "repetitions": repetitions, "memory_batch_size": spec.batch_size}


def _runnable(settings: CompareSettings, network: nn.Module, num_classes: int) -> nn.Module:
    """The network for measuring time and memory: frozen as in the recipe, a detector with objects."""
    recipe = with_defaults(training_settings(settings, BASELINE, {})).recipe
    freeze(network, recipe.freeze or (), optional=recipe.preset_freeze)
    return task_of(settings.model).costs.measured(network, num_classes)


def _build_runnable(settings: CompareSettings, block: str, variants: Variants, num_classes: int) -> nn.Module:
    return _runnable(settings, create_variant(settings, block, variants, num_classes), num_classes)


def _peak_memories(
    settings: CompareSettings, variants: Variants, spec: MeasurementSpec, precision: Precision
) -> Iterator[int | None]:
    """The peak memory of each block's network, in order; several are measured at a time."""
    shape = (spec.batch_size, 3, *spec.image_size)

    def peak(block: str) -> int | None:
        build = partial(_build_runnable, settings, block, variants, spec.num_classes)
        return training_step_peak_memory(build, shape, device=spec.device, precision=precision)

    pool = ThreadPoolExecutor(spec.jobs)
    try:
        yield from pool.map(peak, settings.block_names())
    finally:  # also after Ctrl-C, which measuring processes ignore
        pool.shutdown(wait=False, cancel_futures=True)
        end_measurements()
        pool.shutdown()


def _cost(
    task: Task,
    block: str,
    network: nn.Module,
    plain: nn.Module,
    spec: MeasurementSpec,
    times: tuple[Timing, Timing],
    peak_memory_bytes: int | None,
) -> Cost:
    forward, step = times
    flops, parameters = spec.flops(network), count_parameters(network)
    body, _, size = task.costs.body(network, spec.image_size)
    shape = (1, 3, *size)
    sites = [f"{site.name}.context" for insertion in inserted(body) for site in insertion.sites]
    ratio = next((record["ratio"] for record in insertion_records(network) if record["ratio"] is not None), 16)
    return Cost(
        sites=len(sites),
        parameters=parameters,
        added_parameters=parameters - count_parameters(plain),
        flops=flops,
        added_flops=flops - spec.flops(plain),
        analytic_flops=_analytic(block, submodule_input_shapes(body, shape, sites), ratio),
        forward_seconds_min=forward.minimum,
        forward_seconds_median=forward.median,
        step_seconds_min=step.minimum,
        step_seconds_median=step.median,
        peak_memory_bytes=peak_memory_bytes,
    )


def _analytic(block: str, inputs: Mapping[str, tuple[int, ...]], ratio: float) -> int | None:
    """The sum of the block's formula over its sites by the shape of their input; None for a block without one."""
    total = 0
    for _, channels, *sides in inputs.values():
        flops = analytic_flops(block, channels=channels, positions=torch.Size(sides).numel(), ratio=ratio)
        if flops is None:
            return None
        total += flops
    return total
