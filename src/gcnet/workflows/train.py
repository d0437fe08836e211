"""A run from its settings to its folder and its result: `train`, `resume` and what both share."""

import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from gcnet.arguments import plain_arguments
from gcnet.data.images.folders import refuse_output_among_images
from gcnet.data.settings import DataSettings
from gcnet.devices import choose_device
from gcnet.errors import UserError, printable
from gcnet.insertion import context_parameters
from gcnet.tasks.registry import build_network, filled, open_task
from gcnet.training.checkpoint import load_state, seed_everything
from gcnet.training.data_record import compare_data, record_data
from gcnet.training.distributed import Processes, processes_joined
from gcnet.training.header import data_lines, print_header
from gcnet.training.loop import Session
from gcnet.training.progress import Lines, LiveBar, Reporter, Silent, choose_reporter, epoch_text, score_text
from gcnet.training.run_folder import (
    LISTING,
    RunFolder,
    check_free,
    create_folder,
    default_name,
    open_folder,
    versions,
    write_json,
)
from gcnet.training.settings import MachineSettings, TrainSettings
from gcnet.training.task import TrainingTask
from gcnet.training.trainer import NonFiniteLoss, Trainer
from gcnet.training.trial import try_network

BuildModel = Callable[[int], nn.Module]
_CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_PLACES = ("data", "val", "images")


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    `best` and `last` are rows of results.csv, None before the first evaluation: of a classifier top1 and top5 as
    fractions and val_loss, of a detector box_ap, box_ap50, mask_ap and mask_ap50; train_loss, epoch, step, ...;
    `metric` names the number that decides what is best; `stopped` is the number of the signal that ended it early, or
    0; `seconds` counts all its parts; `skipped` names the images that could not be read, with the reason.
    """

    folder: Path
    steps: int
    total_steps: int
    best: dict[str, Any] | None
    last: dict[str, Any] | None
    seconds: float
    skipped: dict[str, str]
    metric: str = "top1"
    stopped: int = 0

    @property
    def finished(self) -> bool:
        """Whether all steps were done."""
        return self.steps >= self.total_steps

    @property
    def exit_code(self) -> int:
        """Of a process that does nothing else: 0, 143 after SIGTERM, 130 after SIGINT, 129 after SIGHUP."""
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

    Arguments:
        settings: everything that decides the run.
        build_model: number of classes -> network, for one that names cannot describe; `settings.network` is then not
            looked at, and `resume` needs it again.
        reporter: told of the progress (default: a bar on a terminal, lines elsewhere).

    Raises:
        UserError: for settings that cannot work; nothing is then left behind.
        NonFiniteLoss: where training diverged; the last good checkpoint stands.
        StorageError: where the disk is full; the last good checkpoint stands.
    """
    if settings.output.output is not None:
        check_free(Path(settings.output.output))
    wanted = settings.output.output or f"runs/{default_name(settings)}"
    refuse_output_among_images(Path(settings.data.data), Path(wanted))
    with assembled(settings, build_model) as (trainer, task):
        try_network(trainer)
        chosen = replace(filled(settings), recipe=trainer.recipe)
        recipe = chosen.recipe.resolved(task.steps_per_epoch)
        processes = trainer.processes
        config = {
            "gcnet": versions(["gcnet"]).get("gcnet"),
            "own_network": build_model is not None,
            "settings": replace(chosen, recipe=recipe, data=task.settled(chosen.data)).anchored().to_dict(),
        }
        output, name = settings.output.output, default_name(settings)

        def create() -> Path:
            data = record_data(task.classes, task.files())
            files = {LISTING: data.listing}
            return create_folder(output, name, config | {"data": data.to_dict()}, files).path

        folder = RunFolder(processes.by_first(create))
        with _only_writer(folder, processes), _removed_unless_begun(folder, trainer):
            return _drive(trainer, folder, settings, reporter)


def resume(
    folder: str | Path,
    *,
    workers: int | None = None,
    device: str | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    moved: Mapping[str, str] = MappingProxyType({}),
    build_model: BuildModel | None = None,
    reporter: Reporter | None = None,
) -> RunResult:
    """Go on with a run where its last checkpoint stands, to the same bits as if it had never stopped.

    A run that was killed before its first checkpoint starts anew in its folder; a finished one only gives its result.

    Arguments:
        folder: of the run.
        workers: another number of loading processes; it changes no bit.
        device: another device; it may change bits.
        epochs, steps: another length, at least what is done already; the learning rate then follows the schedule of
            the new length from here on, so that the bits are not those of a run of that length from the start.
        moved: where the data are now, by setting: data, val, images, root. They must be the same data.
        build_model: as given to `train`.
        reporter: as in `train`.

    Raises:
        UserError: where there is no run, another process trains in it, it needs `build_model`, or its classes changed.
        StorageError: for a damaged checkpoint.
    """
    found, settings, config = open_folder(folder)
    if config.get("own_network") and build_model is None:
        raise UserError(f"{folder} trains a network of your own: resume it in Python, resume(folder, build_model=...)")
    if workers is not None:
        settings = replace(settings, data=replace(settings.data, workers=workers))
    if device is not None:
        settings = replace(settings, machine=replace(settings.machine, device=device))
    if moved:
        settings = replace(settings, data=replace(settings.data, **moved)).anchored()
    _require_data(settings.data)
    if epochs is not None or steps is not None:
        settings = replace(settings, recipe=replace(settings.recipe, epochs=epochs, steps=steps))
    with processes_joined(choose_device(settings.machine.device)) as processes, _only_writer(found, processes):
        state = load_state(found.checkpoint) if os.path.lexists(found.checkpoint) else None
        with assembled(settings, build_model, resumed=state is not None) as (trainer, task):
            _check_length(trainer, state)
            recipe = settings.recipe.resolved(task.steps_per_epoch)
            changed = replace(settings, recipe=recipe)
            note = processes.by_first(lambda: _check_data(found, config, task, moved))
            if processes.first:
                found.clean()
                if moved or epochs is not None or steps is not None:
                    write_json(found.config, config | {"settings": changed.to_dict()})
            return _drive(trainer, found, changed, reporter, state=state, resumed=True, notes=[note] if note else [])


def _require_data(data: DataSettings) -> None:
    """Refuse data that are no longer where the run had them.

    Raises:
        UserError: naming the flag that takes the new place.
    """
    for name in _PLACES:
        path = getattr(data, name)
        if path is not None and os.path.isabs(path) and not os.path.exists(path):
            raise UserError(
                f"the run needs {printable(path)}, and nothing is there; where the data moved, give the new place as "
                f"--{name} beside --resume"
            )


def _without_files(settings: TrainSettings) -> TrainSettings:
    """The settings without the weights that the run started from: the checkpoint holds all; the files may be gone."""
    network, detector = settings.network, settings.detector
    return replace(settings, network=replace(network, weights=None), detector=replace(detector, backbone_weights=None))


def _check_length(trainer: Trainer, state: Mapping[str, Any] | None) -> None:
    done, total = state["trainer"]["step"] if state else 0, trainer.schedule.total
    if total < done:
        raise UserError(f"the run has done {done} steps already, so it cannot be shortened to {total}")


def _check_data(
    folder: RunFolder, config: Mapping[str, Any], task: TrainingTask, moved: Mapping[str, str]
) -> str | None:
    """What to tell of data that changed since the run started.

    Raises:
        UserError: the classes changed, or the data that `moved` names are others.
    """
    if "data" not in config:  # a run of an earlier version
        return "the run has no record of its data, so they cannot be compared" if moved else None
    difference = compare_data(config["data"], folder.data, record_data(task.classes, task.files()))
    if difference is None:
        return None
    if moved:
        flags = " ".join(f"--{name} {printable(value)}" for name, value in moved.items())
        raise UserError(
            f"{flags} beside --resume is for data that moved, and these are not those of the run: {difference}"
        )
    return f"the data changed since the run started: {difference}; the run goes on, with another result than without it"


@contextmanager
def _only_writer(folder: RunFolder, processes: Processes) -> Generator[None]:
    """Have the first process hold the lock of the folder, and all fail where it cannot."""
    with ExitStack() as stack:
        processes.by_first(lambda: stack.enter_context(folder.writing()))
        yield


@contextmanager
def _removed_unless_begun(folder: RunFolder, trainer: Trainer) -> Generator[None]:
    """Remove the folder of a run that fails in its first step, for whatever reason: nothing is in it to go on with."""
    try:
        yield
    except NonFiniteLoss:  # its folder says which images
        raise
    except BaseException:
        if trainer.processes.first and trainer.step == 0 and not folder.checkpoint.exists():
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


@contextmanager
def assembled(
    settings: TrainSettings, build_model: BuildModel | None, *, resumed: bool = False
) -> Generator[tuple[Trainer, TrainingTask], None, None]:
    """Data, network and trainer, ready for the first step, in all processes; GPU switches are set back afterwards.

    Args:
        settings: of the run.
        build_model: as in `train`.
        resumed: a checkpoint holds all weights, so that those the run started from are not looked for.
    """
    device = choose_device(settings.machine.device)
    with processes_joined(device) as processes, _gpu_switches(settings.machine):
        task = open_task(settings, processes)
        settings = filled(task.settings)  # the default batch size depends on the number of images
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


def _drive(
    trainer: Trainer,
    folder: RunFolder,
    settings: TrainSettings,
    reporter: Reporter | None,
    *,
    state: dict[str, Any] | None = None,
    resumed: bool = False,
    notes: Sequence[str] = (),
) -> RunResult:
    processes = trainer.processes
    reporter = (reporter or choose_reporter()) if processes.first else Silent()
    if isinstance(reporter, Lines | LiveBar):
        reporter.output.log = folder.log
    session = Session(trainer, folder, output=settings.output, reporter=reporter, seed=settings.machine.seed)
    found = list(notes)
    if state is not None:
        found += session.restore(state)
    elif resumed and processes.first:
        found.append("there is no checkpoint.safetensors to go on from, so the run starts again")
        found += folder.rewind(0, 0)
    if processes.first and trainer.step < session.total:
        found += folder.note_environment(str(trainer.device), processes.world)
    _announce(session, settings, resumed=resumed)
    for note in found:
        reporter.say(f"note: {note}")
    session.go()
    record = session.record
    result = RunResult(
        folder=folder.path,
        steps=trainer.step,
        total_steps=session.total,
        best=record.best,
        last=record.last,
        seconds=session.seconds(),
        skipped=record.skipped,
        metric=trainer.task.metric,
        stopped=session.stopped,
    )
    _conclude(result, session.reporter)
    return result


def _conclude(result: RunResult, reporter: Reporter) -> None:
    if result.skipped:
        count = "1 image was" if len(result.skipped) == 1 else f"{len(result.skipped):,} images were"
        reporter.say(f"{count} skipped; see {printable(result.folder / 'skipped.csv')}")
    if result.finished and result.best is not None:
        best, place = result.best, printable(result.best_weights)
        score = score_text(result.metric, best[result.metric])
        reporter.say(f"finished; best {score} in epoch {epoch_text(best['epoch'])}: {place}")


def _announce(session: Session, settings: TrainSettings, *, resumed: bool) -> None:
    trainer, say = session.trainer, session.reporter.say
    if not resumed:
        print_header(trainer, settings, session.folder.path, say)
        return
    place = printable(session.folder.path)
    if trainer.step >= session.total:
        say(f"{place}: finished at step {trainer.step}; --resume {place} --epochs N trains on, to N epochs in all")
        return
    say(f"{place}: on from step {trainer.step} of {session.total}")
    for line in data_lines(trainer, settings):
        say(line)


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
