"""Measuring a case: its contestants take turns in this process, and each has its peak memory in one of its own.

What networks have and compute is counted, beside it.
"""

import math
from functools import partial
from statistics import median, quantiles

import torch

from benchmarks.cases import Case
from benchmarks.contestants import Contestant
from benchmarks.rows import Row
from benchmarks.settings import BenchmarkSettings
from benchmarks.tasks import Task, prepare_call, saved_bytes
from gcnet.analysis.cost import count_flops, count_parameters
from gcnet.analysis.memory import peak_memory
from gcnet.analysis.timing import interleaved_seconds

_BYTES = 4  # of a float32


def measure(case: Case, settings: BenchmarkSettings) -> list[Row]:
    """The rows of a case: each contestant once for every other that it is compared with, or once alone."""
    times = interleaved_seconds(
        {contestant.name: prepare_call(case.task, contestant) for contestant in case.contestants},
        repetitions=settings.rounds,
        seconds=settings.limit,
    )
    rows = []
    for contestant in case.contestants:
        peak = _peak(case.task, contestant, settings.threads) if settings.memory else None
        saved = saved_bytes(*contestant.prepare(), contestant.precision) if case.task == "forward_backward" else None
        rows += [_row(case, contestant, times, other, (peak, saved)) for other in contestant.against or ("",)]
    return rows


def count_network(contestant: Contestant) -> dict[str, int]:
    """Parameters of a network, and FLOPs for one of its images."""
    with torch.device("meta"):
        network = contestant.build()
    flops = count_flops(network, (1, *contestant.shape[1:]))
    return {"parameters": count_parameters(network), "flops": flops}


def _peak(task: Task, contestant: Contestant, threads: int) -> int | None:
    # The first training step also makes what stays, the gradients and the momentum, which belong to it.
    warm_up = 0 if task == "training_step" else 1
    return peak_memory(partial(prepare_call, task, contestant), threads=threads, warm_up=warm_up)


def _row(
    case: Case,
    contestant: Contestant,
    times: dict[str, list[float]],
    other: str,
    memory: tuple[int | None, int | None],
) -> Row:
    own = [1000 * seconds for seconds in times[contestant.name]]
    precision = contestant.precision
    lower, middle, upper = quantiles(own, method="inclusive")
    others = [1000 * seconds for seconds in times[other]] if other else []
    return Row(
        benchmark=case.benchmark,
        task=case.task,
        shape="x".join(map(str, contestant.shape)),
        layout="channels_last" if precision.channels_last else "contiguous",
        dtype="float32" if precision.autocast is None else f"{str(precision.autocast).removeprefix('torch.')} autocast",
        contestant=contestant.name,
        rounds=len(own),
        minimum_ms=min(own),
        lower_quartile_ms=lower,
        median_ms=middle,
        upper_quartile_ms=upper,
        peak_bytes=memory[0],
        saved_bytes=memory[1],
        input_bytes=_BYTES * math.prod(contestant.shape),
        against=other,
        ratio_of_minima=min(own) / min(others) if other else None,
        median_of_ratios=median(a / b for a, b in zip(own, others, strict=True)) if other else None,
    )
