"""Trainings of a comparison under torchrun: each process runs one at a time, on its own GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import wait

import torch

from gcnet.comparison.plan import Training
from gcnet.comparison.run_progress import Progress
from gcnet.comparison.runs import RunContext, Stopped, require_result
from gcnet.comparison.workers import TrainingFailure, TrainingProcess
from gcnet.devices import choose_device
from gcnet.errors import UserError
from gcnet.training.distributed import ALONE
from gcnet.training.signals import StopRequest, handle_signals

_POLL_SECONDS = 1.0


def jobs_of_torchrun(jobs: int | None, world: int) -> int:
    """Return how many trainings run at a time under torchrun.

    Args:
        jobs: the number of the settings: 1 for one training that all processes share; None for one per process.
        world: number of processes.

    Raises:
        UserError: another number.
    """
    if jobs not in (None, 1, world):
        raise UserError(
            f"under torchrun, `jobs` must be {world}, one training per process (default), or 1, so that all "
            f"{world} processes share each training; found {jobs}"
        )
    return jobs or world


@dataclass(frozen=True)
class _State:
    """State of the training of one process, as all processes see it.

    Attributes:
        ended: whether the training has ended.
        failure: its error.
        stop: number of a signal that the process received, or 0.
    """

    ended: bool = False
    failure: TrainingFailure | None = None
    stop: int = 0


def run_in_torchrun(waiting: Sequence[Training], context: RunContext, progress: Progress) -> None:
    """Run trainings, each alone in a child of one of the processes; a process that is free takes the next one.

    Args:
        waiting: trainings that are not finished, the same in all processes.
        context: where and how they run; the machines of all processes share its folder.
        progress: reports their steps and results, in the first process.

    Raises:
        Stopped: a signal was received; the running trainings have saved checkpoints.
        UserError: in every process, if a training failed; the others have saved checkpoints.
        NonFiniteLoss: likewise, if a loss was not finite.
    """
    processes, alone = context.processes, replace(context, processes=ALONE)
    gpu = gpu_of(choose_device(context.settings.machine.device), context.gpus)
    queue, running = list(waiting), dict[int, Training]()  # by rank; equal in all processes
    own: TrainingProcess | None = None
    with handle_signals() as request:
        try:
            while True:
                for rank in [rank for rank in range(processes.world) if rank not in running][: len(queue)]:
                    running[rank] = queue.pop(0)
                    if rank == processes.rank:
                        own = TrainingProcess(running[rank], alone, gpu)
                if not running:
                    return
                states = processes.gather(_state(own, request))
                end = _end(states, running)
                if end is not None:
                    if own is not None:
                        own.end()
                    processes.gather(None)  # none ends while another waits for its training
                    raise end
                for rank, state in enumerate(states):
                    if state.ended:
                        training = running.pop(rank)
                        own = None if rank == processes.rank else own
                        processes.by_first(partial(require_result, training, context))
                        if processes.first:
                            progress.finished(training)
                if processes.first:
                    progress.poll(list(running.values()))
        finally:
            if own is not None:
                own.end()


def _end(states: Sequence[_State], running: Mapping[int, Training]) -> Stopped | UserError | None:
    """Why the comparison ends: a signal, or the error of the first training that failed; None if it goes on."""
    if stop := max(state.stop for state in states):
        return Stopped(stop)
    failures = {rank: state.failure for rank, state in enumerate(states) if state.failure is not None}
    errors = (failure.error(running[rank].name).in_all_processes() for rank, failure in failures.items())
    return next(errors, None)


def gpu_of(device: torch.device, gpus: Sequence[str]) -> str | None:
    """Return the CUDA_VISIBLE_DEVICES of the GPU of a process of torchrun; None on the CPU.

    Args:
        device: of the process.
        gpus: of `gcnet.devices.visible_gpus`.
    """
    return None if device.index is None else gpus[device.index]


def _state(own: TrainingProcess | None, request: StopRequest) -> _State:
    """The state of the training of this process, after up to a second."""
    if own is not None:
        wait([own.process.sentinel], timeout=_POLL_SECONDS)
    request.check_launcher()
    if own is None or own.process.is_alive():
        return _State(stop=request.stop)
    return _State(ended=True, failure=own.failure(stopping=bool(request.stop)), stop=request.stop)
