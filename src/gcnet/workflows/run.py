"""A training run: data, network and trainer, the one writer of its folder, and its steps up to the result."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from gcnet.compilation import explained_compile_errors
from gcnet.devices import choose_device, gpu_kernels
from gcnet.errors import UserError, printable
from gcnet.insertion import context_parameters
from gcnet.tasks.registry import build_network, open_task, with_defaults
from gcnet.training.checkpoint import seed_everything
from gcnet.training.distributed import Processes, processes_joined
from gcnet.training.header import data_lines, print_header
from gcnet.training.loop import TrainingLoop
from gcnet.training.progress import Lines, LiveBar, Reporter, Silent, choose_reporter, epoch_text, format_score
from gcnet.training.run_folder import RunFolder
from gcnet.training.settings import TrainSettings
from gcnet.training.task import TrainingTask
from gcnet.training.trainer import Trainer

BuildModel = Callable[[int], nn.Module]

# Of the machine of a process: its paths, whose contents must be the same, and its resources.
_OF_MACHINE = frozenset(
    ("data", "val", "images", "download", "download_dir", "weights", "backbone_weights", "output", "device", "workers")
)


@dataclass(frozen=True)
class RunResult:
    """Result of a training run.

    Attributes:
        folder: the run folder; of a run at a URL, its local folder.
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


@contextmanager
def only_writer(folder: RunFolder, processes: Processes) -> Generator[None]:
    """Hold the lock of a run folder in the first process; all processes fail if it is taken.

    Args:
        folder: the run folder; of a run at a URL, its local folder.
        processes: that train together.
    """
    with ExitStack() as stack:
        processes.by_first(lambda: stack.enter_context(folder.writing()))
        yield


def _without_files(settings: TrainSettings) -> TrainSettings:
    """The settings without the weights that the run started from: the checkpoint holds all; the files may be gone."""
    network, detector = settings.network, settings.detector
    return replace(settings, network=replace(network, weights=None), detector=replace(detector, backbone_weights=None))


def _require_same_settings(settings: TrainSettings, processes: Processes) -> None:
    """Check that all processes have the same settings, which a mistake in the command of one machine changes."""
    found = processes.gather(dict(_common(settings.to_dict())) if processes.world > 1 else {})
    for rank, own in enumerate(found[1:], start=1):
        for name, value in found[0].items():
            if own[name] != value:
                first, other = (
                    f"no `{name}`" if given is None else f"`{name}={printable(str(given))}`"
                    for given in (value, own[name])
                )
                raise UserError(
                    f"all processes need the same settings; rank 0 has {first}, and rank {rank} {other}"
                ).in_all_processes()


def _common(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _common(value)
        elif name not in _OF_MACHINE:
            yield name, value


@contextmanager
def assembled(
    settings: TrainSettings, build_model: BuildModel | None, *, resumed: bool = False
) -> Generator[tuple[Trainer, TrainingTask], None, None]:
    """Build data, network and trainer in all processes; PyTorch's settings of GPU kernels are restored afterwards.

    Args:
        settings: of the run.
        build_model: as in `train`.
        resumed: whether a checkpoint holds all weights, so that the initial weights are not read.

    Yields:
        The trainer, ready for the first step, and its task.

    Raises:
        UserError: a network is to be sharded over one process, or settings or data differ between processes.
    """
    device = choose_device(settings.machine.device)
    settings = replace(settings, machine=settings.machine.resolved(device))
    with processes_joined(device) as processes, explained_compile_errors(), ExitStack() as stack:
        if settings.machine.shard_model and processes.world == 1:
            raise UserError("`shard_model` needs two or more processes, started by torchrun; found one")
        _require_same_settings(settings, processes)
        task = open_task(settings, processes)
        processes.require_same(
            lambda: (
                f"{task.steps_per_epoch:,} steps per epoch, {task.evaluation_images:,} validation images and "
                f"{len(task.classes):,} classes"
            )
        )
        settings = with_defaults(task.settings)  # the default batch size depends on the number of images
        machine, seed = settings.machine, settings.machine.seed
        kernels = {"deterministic": machine.deterministic, "tf32": machine.tf32}
        stack.enter_context(gpu_kernels(device, **kernels, fixed_sizes=task.image_size is not None))
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
            machine=machine,
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
        folder: the run folder; of a run at a URL, its local folder.
        settings: of the run.
        reporter: of the progress; None for a bar on a terminal, else lines.
        state: content of the checkpoint to start from, or None; emptied, which frees its memory.
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
    if folder.remote is not None:
        found.append(f"each checkpoint is published at {folder.place}")
    if state is not None:
        found += loop.restore(state)
        state.clear()  # its memory is free during the run
    elif resumed and processes.first:
        found.append("no checkpoint.safetensors: the run starts from step 0")
        found += folder.rewind(0, 0)
    if processes.first and trainer.step < loop.total:
        workers = trainer.task.workers(trainer.device)
        found += folder.note_environment(str(trainer.device), processes.world, workers)
    _announce(loop, settings, resumed=resumed)
    for note in found:
        reporter.log(f"note: {note}")
    loop.run()
    processes.by_first(folder.publish_end)
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
