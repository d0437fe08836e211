"""Runs the trainings of a comparison, several at a time; interrupted ones are resumed."""

from collections.abc import Sequence

import torch

from gcnet.comparison.cluster_runs import run_on_cluster
from gcnet.comparison.plan import Training
from gcnet.comparison.results import Run
from gcnet.comparison.run_progress import Progress
from gcnet.comparison.runs import RunContext, check_same_data, train_or_resume
from gcnet.comparison.torchrun_runs import run_in_torchrun
from gcnet.comparison.workers import run_in_processes
from gcnet.ray_cluster import Share
from gcnet.training.progress import Reporter

_MOST_JOBS = 4


def share_machine(jobs: int | None, trainings: int, device: str, gpus: Sequence[str]) -> tuple[int, int]:
    """Return how many trainings run at a time, and the CPU threads of each.

    Args:
        jobs: the number of the settings, None for the default: one for each GPU; on the CPU one for each core, at most
            4.
        trainings: number of trainings.
        device: of this process, such as "cuda:0".
        gpus: of `gcnet.devices.visible_gpus`.

    Returns:
        The numbers; all threads together are at most those of PyTorch in this process.
    """
    threads = torch.get_num_threads()
    if jobs is None:
        jobs = min(_MOST_JOBS, threads) if device == "cpu" else max(len(gpus), 1)
    jobs = min(jobs, trainings)
    return jobs, max(threads // jobs, 1)


def run_all(
    trainings: Sequence[Training], context: RunContext, reporter: Reporter, cluster: Share | None = None
) -> list[Run]:
    """Run the trainings that are not finished.

    Args:
        trainings: of the comparison.
        context: where and how they run.
        reporter: of the progress.
        cluster: resources of each training on the Ray cluster that is connected; None for this machine.

    Returns:
        The results of all trainings, in the given order.

    Raises:
        Stopped: a signal was received; the running trainings have saved checkpoints.
        UserError: a training failed or had other data; the others have saved checkpoints.
        NonFiniteLoss: a loss was not finite.
    """
    (context.folder / "runs").mkdir(parents=True, exist_ok=True)
    processes = context.processes
    processes.by_first(lambda: check_same_data(trainings, context))
    done = processes.by_first(lambda: [context.result(training) is not None for training in trainings])
    waiting = [training for training, is_done in zip(trainings, done, strict=True) if not is_done]
    if len(waiting) < len(trainings):
        reporter.log(f"{len(trainings) - len(waiting)} of {len(trainings)} trainings are already finished")
    progress = Progress(context, trainings, reporter)
    if cluster is not None:
        run_on_cluster(waiting, context, cluster, progress)
    elif context.jobs == 1:
        for training in waiting:
            train_or_resume(training, context, progress.reporter_of(training))
            progress.finished(training)
    elif processes.world > 1:
        run_in_torchrun(waiting, context, progress)
    else:
        run_in_processes(waiting, context, progress)
    return processes.by_first(lambda: [run for training in trainings if (run := context.result(training)) is not None])
