"""Trainings of a comparison as tasks on a Ray cluster, whose nodes share the output folder."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gcnet.comparison.plan import Training
from gcnet.comparison.run_progress import Progress
from gcnet.comparison.runs import RunContext, Stopped, require_result
from gcnet.comparison.settings import CompareSettings
from gcnet.comparison.workers import TrainingFailure, TrainingProcess
from gcnet.devices import in_several_processes
from gcnet.errors import Failure, UserError
from gcnet.ray_cluster import RETRIES, Share, reason_of, require_assigned_gpu
from gcnet.tasks.registry import open_task, with_defaults
from gcnet.training.distributed import Processes
from gcnet.training.progress import Reporter
from gcnet.training.signals import handle_signals

_POLL_SECONDS = 1.0
_SAVING_SECONDS = 60.0


def run_on_cluster(waiting: Sequence[Training], context: RunContext, share: Share, progress: Progress) -> None:
    """Run trainings as Ray tasks; one whose node dies is resumed from its checkpoint on another node.

    Args:
        waiting: trainings that are not finished.
        context: where and how they run; all nodes see its folder at the same path.
        share: resources of each training.
        progress: reports their steps and results.

    Raises:
        Stopped: a signal was received; the running trainings have saved checkpoints.
        UserError: a training failed; the others have saved checkpoints.
        NonFiniteLoss: a loss was not finite.
    """
    import ray

    _refuse_builders_of_script(context)
    task: Any = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=RETRIES)(train_on_node)
    queue, running = list(waiting), dict[Any, Training]()
    with handle_signals() as request:
        try:
            while (queue or running) and not request.stop:
                while queue and len(running) < context.jobs:
                    training = queue.pop(0)
                    running[task.options(name=training.name).remote(training, context, Path.cwd())] = training
                for ended in ray.wait(list(running), timeout=_POLL_SECONDS)[0]:
                    training = running.pop(ended)
                    _check(ended, training)
                    require_result(training, context)
                    progress.finished(training)
                progress.poll(list(running.values()))
        finally:
            _cancel(running)
        if request.stop:
            raise Stopped(request.stop)


def train_first(training: Training, folder: Path, share: Share, reporter: Reporter) -> None:
    """Run a training before the comparisons as a task of the Ray cluster that is connected, unless it is finished.

    Args:
        training: with a run folder of its own, which may have a checkpoint.
        folder: output folder, at the same path on all nodes.
        share: resources of the training.
        reporter: of the progress.

    Raises:
        Stopped: a signal was received; a checkpoint is saved.
        UserError: the training failed, or the data do not exist.
        NonFiniteLoss: a loss was not finite.
    """
    settings = training.settings
    task = open_task(settings, Processes())
    steps = with_defaults(task.settings).recipe.length(task.steps_per_epoch)
    described = CompareSettings(model=settings.network.model, data=settings.data, machine=settings.machine)
    context = RunContext(described, folder, 1, max(share.cpus, 1), {}, steps, Processes())
    if context.result(training) is None:
        folder.mkdir(parents=True, exist_ok=True)
        run_on_cluster([training], context, share, Progress(context, [training], reporter))


def check_launcher(cluster: str | None) -> None:
    """Check that a command with `cluster` was not started by torchrun.

    Args:
        cluster: address of the cluster; None for none.

    Raises:
        UserError: it was.
    """
    if cluster is not None and in_several_processes():
        raise UserError("`cluster` runs each training in one process; start the command without torchrun")


def _refuse_builders_of_script(context: RunContext) -> None:
    for name, variant in context.variants.items():
        if getattr(variant.block, "__module__", None) == "__main__":
            raise UserError(f"with `cluster`, the builder {name} must be in a module that all nodes can import")


def _check(ended: Any, training: Training) -> None:
    """Raise the error of a task that ended, if any."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        failure = ray.get(ended)
    except RayTaskError as error:
        raise Failure(f"{training.name}: a node of the Ray cluster cannot run it: {reason_of(error)}") from error
    except RayError as error:
        raise Failure(f"{training.name}: its Ray task failed {RETRIES + 1} times: {reason_of(error)}") from error
    if failure is not None:
        raise failure.error(training.name)


def _cancel(running: Iterable[Any]) -> None:
    """Cancel tasks and wait until they have saved their checkpoints."""
    import ray

    tasks = list(running)
    for task in tasks:
        ray.cancel(task)
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=_SAVING_SECONDS)


def train_on_node(training: Training, context: RunContext, folder: Path) -> TrainingFailure | None:
    """Run one training on this node, as a Ray task, in a process of its own.

    Args:
        training: the training.
        context: where and how it runs.
        folder: current folder of the command.

    Returns:
        Its error; None for success.
    """
    try:
        os.chdir(folder)
        context.folder.resolve(strict=True)
        require_assigned_gpu()
    except OSError as error:
        return TrainingFailure.of(Failure(f"the nodes of the cluster must share the folder {folder}: {error.strerror}"))
    except Failure as error:
        return TrainingFailure.of(error)
    training_process = TrainingProcess(training, context)
    process = training_process.process
    try:
        while process.is_alive():  # in short waits, between which Ray can cancel the task
            process.join(_POLL_SECONDS)
        return training_process.failure(stopping=False)
    finally:
        training_process.end()
