"""`gcnet.train`: trains a network from settings, and leaves a run folder."""

import os
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gcnet.arguments import plain_arguments
from gcnet.data.images.folders import check_output_outside_images
from gcnet.devices import choose_device
from gcnet.errors import printable
from gcnet.insertion import context_parameters
from gcnet.renamed import FORMAT_VERSION
from gcnet.tasks.registry import build_network, open_task, with_defaults
from gcnet.training.checkpoint import seed_everything
from gcnet.training.data_record import record_data
from gcnet.training.distributed import Processes, processes_joined
from gcnet.training.header import data_lines, print_header
from gcnet.training.loop import TrainingLoop
from gcnet.training.progress import Lines, LiveBar, Reporter, Silent, choose_reporter, epoch_text, format_score
from gcnet.training.run_folder import LISTING, RunFolder, check_free, create_folder, default_name, versions
from gcnet.training.settings import MachineSettings, TrainSettings
from gcnet.training.task import TrainingTask
from gcnet.training.trainer import NonFiniteLoss, Trainer
from gcnet.training.trial import try_network

BuildModel = Callable[[int], nn.Module]
_CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@dataclass(frozen=True)
class RunResult:
    """Result of a training run.

    Attributes:
        folder: the run folder.
        steps: number of optimizer steps done.
        total_steps: number of optimizer steps of the whole run.
        best: row of results.csv with the best metric: `epoch`, `step`, `train_loss`, and of a classifier
            `top1_fraction`, `top5_fraction` and `val_loss`, of a detector `bbox_AP_fraction`, `bbox_AP50_fraction`,
            `segm_AP_fraction` and `segm_AP50_fraction`; None before the first evaluation.
        last: row of the last evaluation, or None.
        seconds: duration, over all times that the run was resumed.
        skipped: reason by name of each image that could not be read.
        metric: key of the metric that decides which weights are the best.
        stopped: number of the signal that stopped the run, 0 if none did.
    """

    folder: Path
    steps: int
    total_steps: int
    best: dict[str, Any] | None
    last: dict[str, Any] | None
    seconds: float
    skipped: dict[str, str]
    metric: str = "top1_fraction"
    stopped: int = 0

    @property
    def finished(self) -> bool:
        """Whether all steps were done."""
        return self.steps >= self.total_steps

    @property
    def exit_code(self) -> int:
        """Exit code of a process that only trains: 0, 143 after SIGTERM, 130 after SIGINT, 129 after SIGHUP."""
        return 128 + self.stopped if self.stopped else 0

    @property
    def best_weights(self) -> Path:
        """The model file of the best evaluation."""
        return RunFolder(self.folder).best

    @property
    def last_weights(self) -> Path:
        """The model file of the last evaluation."""
        return RunFolder(self.folder).last


def run_training(
    settings: TrainSettings, *, build_model: BuildModel | None = None, reporter: Reporter | None = None
) -> RunResult:
    """Train a network and leave a run folder.

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
    if settings.output.output is not None:
        check_free(Path(settings.output.output))
    wanted = settings.output.output or f"runs/{default_name(settings)}"
    check_output_outside_images(Path(settings.data.data), Path(wanted))
    with assembled(settings, build_model) as (trainer, task):
        try_network(trainer)
        chosen = replace(with_defaults(settings), recipe=trainer.recipe)
        recipe = chosen.recipe.with_steps(task.steps_per_epoch)
        processes = trainer.processes
        config = {
            "format_version": FORMAT_VERSION,
            "gcnet": versions(["gcnet"]).get("gcnet"),
            "own_network": build_model is not None,
            "settings": replace(chosen, recipe=recipe, data=task.settled(chosen.data)).with_absolute_paths().to_dict(),
        }
        output, name = settings.output.output, default_name(settings)

        def create() -> Path:
            data = record_data(task.classes, task.files())
            files = {LISTING: data.listing}
            return create_folder(output, name, config | {"data": data.to_dict()}, files).path

        folder = RunFolder(processes.by_first(create))
        with only_writer(folder, processes), _removed_unless_begun(folder, trainer):
            return drive(trainer, folder, replace(settings, detector=chosen.detector), reporter)


def _without_files(settings: TrainSettings) -> TrainSettings:
    """The settings without the weights that the run started from: the checkpoint holds all; the files may be gone."""
    network, detector = settings.network, settings.detector
    return replace(settings, network=replace(network, weights=None), detector=replace(detector, backbone_weights=None))


@contextmanager
def only_writer(folder: RunFolder, processes: Processes) -> Generator[None]:
    """Hold the lock of a run folder in the first process; all processes fail if it is taken.

    Args:
        folder: the run folder.
        processes: that train together.
    """
    with ExitStack() as stack:
        processes.by_first(lambda: stack.enter_context(folder.writing()))
        yield


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


@contextmanager
def assembled(
    settings: TrainSettings, build_model: BuildModel | None, *, resumed: bool = False
) -> Generator[tuple[Trainer, TrainingTask], None, None]:
    """Build data, network and trainer in all processes; the switches of the GPU are restored afterwards.

    Args:
        settings: of the run.
        build_model: as in `train`.
        resumed: whether a checkpoint holds all weights, so that the initial weights are not read.

    Yields:
        The trainer, ready for the first step, and its task.
    """
    device = choose_device(settings.machine.device)
    with processes_joined(device) as processes, _gpu_switches(settings.machine):
        task = open_task(settings, processes)
        settings = with_defaults(task.settings)  # the default batch size depends on the number of images
        seed = settings.machine.seed
        seed_everything(seed)
        described = _without_files(settings) if resumed else settings
        build = build_model or partial(build_network, described, image_size=task.image_size)
        network = build(len(task.classes))
        task.check(network)
        if settings.detector.norm == "sync" and device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        # Dropout must differ between processes, and must not depend on how many numbers the network's making drew.
        seed_everything(seed, 1 + processes.rank)
        trainer = Trainer(
            task,
            network,
            recipe=settings.recipe,
            machine=settings.machine,
            device=device,
            processes=processes,
            block_parameters=[name for name, _ in context_parameters(network)],
        )
        yield trainer, task


def drive(
    trainer: Trainer,
    folder: RunFolder,
    settings: TrainSettings,
    reporter: Reporter | None,
    *,
    state: dict[str, Any] | None = None,
    resumed: bool = False,
    notes: Sequence[str] = (),
) -> RunResult:
    """Run the remaining steps and report how the run ended.

    Args:
        trainer: with network and task.
        folder: the run folder.
        settings: of the run.
        reporter: of the progress; None for a bar on a terminal, else lines.
        state: content of the checkpoint to start from, or None.
        resumed: whether the run was started before.
        notes: to report before the first step.

    Returns:
        The result of the run.
    """
    processes = trainer.processes
    reporter = (reporter or choose_reporter()) if processes.first else Silent()
    if isinstance(reporter, Lines | LiveBar):
        reporter.output.log = folder.log
    loop = TrainingLoop(trainer, folder, output=settings.output, reporter=reporter, seed=settings.machine.seed)
    found = list(notes)
    if state is not None:
        found += loop.restore(state)
    elif resumed and processes.first:
        found.append("no checkpoint.safetensors: the run starts from step 0")
        found += folder.rewind(0, 0)
    if processes.first and trainer.step < loop.total:
        found += folder.note_environment(str(trainer.device), processes.world)
    _announce(loop, settings, resumed=resumed)
    for note in found:
        reporter.log(f"note: {note}")
    loop.run()
    record = loop.state
    result = RunResult(
        folder=folder.path,
        steps=trainer.step,
        total_steps=loop.total,
        best=record.best,
        last=record.last,
        seconds=loop.seconds(),
        skipped=record.skipped,
        metric=trainer.task.metric,
        stopped=loop.stopped,
    )
    _conclude(result, loop.reporter)
    return result


def _conclude(result: RunResult, reporter: Reporter) -> None:
    if result.skipped:
        count = "1 image was" if len(result.skipped) == 1 else f"{len(result.skipped):,} images were"
        reporter.log(f"{count} skipped; see {printable(result.folder / 'skipped.csv')}")
    if result.finished and result.best is not None:
        best, place = result.best, printable(result.best_weights)
        score = format_score(result.metric, best[result.metric])
        reporter.log(f"finished; best {score} in epoch {epoch_text(best['epoch'])}: {place}")


def _announce(loop: TrainingLoop, settings: TrainSettings, *, resumed: bool) -> None:
    trainer, log = loop.trainer, loop.reporter.log
    if not resumed:
        print_header(trainer, settings, loop.folder.path, log)
        return
    place = printable(loop.folder.path)
    if trainer.step >= loop.total:
        log(f"{place}: finished at step {trainer.step}; resume it with more epochs to train longer")
        return
    log(f"{place}: resuming at step {trainer.step} of {loop.total}")
    for line in data_lines(trainer, settings):
        log(line)


@contextmanager
def _gpu_switches(machine: MachineSettings) -> Generator[None, None, None]:
    """Deterministic kernels where they are asked for, else the fastest convolutions; as before on leaving."""
    if not torch.cuda.is_initialized() and not machine.deterministic:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    workspace = os.environ.get(_CUBLAS_WORKSPACE)
    if machine.deterministic and workspace is None:
        os.environ[_CUBLAS_WORKSPACE] = ":4096:8"  # cuBLAS refuses deterministic work without it
    torch.use_deterministic_algorithms(machine.deterministic)
    torch.backends.cudnn.benchmark = not machine.deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
        if workspace is None:
            os.environ.pop(_CUBLAS_WORKSPACE, None)


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

    Example:
        >>> result = gcnet.train(model="cifar_resnet20", block="gc", data="scenes", limit_train=64, steps=2)
    """
    return run_training(settings, build_model=build_model, reporter=reporter)
