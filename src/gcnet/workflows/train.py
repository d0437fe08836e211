"""`gcnet.train`: trains a network from settings, and leaves a run folder."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gcnet.arguments import plain_arguments
from gcnet.data.images.folders import check_output_outside_images
from gcnet.devices import choose_device
from gcnet.renamed import FORMAT_VERSION
from gcnet.tasks.registry import with_defaults
from gcnet.training.data_record import record_data
from gcnet.training.distributed import Processes, processes_joined
from gcnet.training.environment import versions
from gcnet.training.losses import NonFiniteLoss
from gcnet.training.progress import Reporter
from gcnet.training.remote_run import RemoteRun, remote_run
from gcnet.training.restarts import describe_job, folder_of_job
from gcnet.training.run_folder import LISTING, RunFolder, check_free, create_folder, default_name
from gcnet.training.settings import TrainSettings
from gcnet.training.trainer import Trainer
from gcnet.training.trial import fitting_accumulation, try_network
from gcnet.workflows.resume import resume
from gcnet.workflows.run import BuildModel, RunResult, assembled, drive, only_writer


def run_training(
    settings: TrainSettings, *, build_model: BuildModel | None = None, reporter: Reporter | None = None
) -> RunResult:
    """Train a network and leave a run folder; processes that torchrun has restarted continue that of their job.

    Args:
        settings: everything that decides the run.
        build_model: number of classes -> network, for one that names cannot describe; `settings.network` is then not
            looked at, and `resume` needs it again.
        reporter: receives the progress (default: a bar on a terminal, lines elsewhere).

    Returns:
        The result, also of a run that a signal stopped.

    Raises:
        UserError: for settings that cannot work; nothing is then left behind.
        NonFiniteLoss: where training diverged; the last good checkpoint stands.
        StorageError: where the disk is full; the last good checkpoint stands.
    """
    job, name = describe_job(settings), default_name(settings)
    # First: an error on one machine, such as an existing run folder, ends the processes of all.
    with processes_joined(choose_device(settings.machine.device)) as processes:
        earlier = None if job is None else processes.by_first(lambda: folder_of_job(settings, name, job))
        if earlier is None:
            return _run_new(settings, build_model, reporter, processes, job=job)
        return resume(earlier, build_model=build_model, reporter=reporter)


def _run_new(
    settings: TrainSettings,
    build_model: BuildModel | None,
    reporter: Reporter | None,
    processes: Processes,
    *,
    job: dict[str, str] | None,
) -> RunResult:
    remote = remote_run(settings.output.output)
    output = settings.output.output if remote is None else str(remote.path)
    processes.by_first(lambda: _check_free(output, remote))
    wanted = output or f"runs/{default_name(settings)}"
    if not settings.data.is_built_in:
        check_output_outside_images(Path(settings.data.data), Path(wanted))
    settings = with_fitting_batches(settings, build_model)
    with assembled(settings, build_model) as (trainer, task):
        try_network(trainer)
        chosen = replace(with_defaults(settings), recipe=trainer.recipe, machine=trainer.machine)
        recipe = chosen.recipe.with_steps(task.steps_per_epoch)
        config = {
            "format_version": FORMAT_VERSION,
            "gcnet": versions(["gcnet"]).get("gcnet"),
            "own_network": build_model is not None,
            **({"job": job} if job else {}),
            "settings": replace(chosen, recipe=recipe, data=task.settled(chosen.data)).with_absolute_paths().to_dict(),
        }
        name = default_name(settings)

        def create() -> Path:
            data = record_data(task.classes, task.files())
            files = {LISTING: data.listing}
            return create_folder(output, name, config | {"data": data.to_dict()}, files).path

        folder = RunFolder(processes.by_first(create), remote)
        with _removed_unless_begun(folder, trainer), only_writer(folder, processes):
            return drive(trainer, folder, replace(settings, detector=chosen.detector), reporter)


def _check_free(output: str | None, remote: RemoteRun | None) -> None:
    if remote is not None:
        remote.check_free()
        remote.check_no_folder()
    elif output is not None:
        check_free(Path(output))


def with_fitting_batches(settings: TrainSettings, build_model: BuildModel | None) -> TrainSettings:
    """Replace `batch_size=auto` by numbers that fit into memory: the default batch size, in micro-batches.

    Args:
        settings: of the run.
        build_model: as in `train`.

    Returns:
        The settings; unchanged if the batch size is a number or open.

    Raises:
        UserError: as `train`.
        OutOfMemory: a single image does not fit.
    """
    if settings.recipe.batch_size != "auto":
        return settings
    with assembled(settings, build_model) as (trainer, _):
        size, parts = trainer.recipe.images_per_step, fitting_accumulation(trainer)
    return replace(settings, recipe=replace(settings.recipe, batch_size=size, grad_accumulation=parts))


@contextmanager
def _removed_unless_begun(folder: RunFolder, trainer: Trainer) -> Generator[None]:
    """Remove the folder of a run that fails in its first step: there is nothing to resume."""
    try:
        yield
    except NonFiniteLoss:  # its folder lists the images
        raise
    except BaseException:
        if trainer.processes.first and trainer.step == 0 and not folder.checkpoint.exists():
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


@plain_arguments(TrainSettings)
def train(
    settings: TrainSettings, *, build_model: BuildModel | None = None, reporter: Reporter | None = None
) -> RunResult:
    """Train a network, and leave a run folder.

    Args:
        build_model: number of classes -> network, for one that no name describes; the arguments about the network
            then have no effect, and `gcnet.resume` needs it again.
        reporter: of the progress (default: a bar on a terminal, lines elsewhere).

    Returns:
        The result: folder, steps, and the rows of the best and the last evaluation.

    Raises:
        UserError: settings that cannot work; nothing is then left behind.
        NonFiniteLoss: training diverged; the last good checkpoint stands.
        StorageError: the disk is full; the last good checkpoint stands.
        RemoteError: the result could not be published at the URL `output`; it is in the local folder.

    Example:
        >>> result = gcnet.train(model="cifar_resnet20", block="gc", data="scenes", limit_train=64, steps=2)
    """
    return run_training(settings, build_model=build_model, reporter=reporter)
