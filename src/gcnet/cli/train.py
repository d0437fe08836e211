"""`gcnet train`: trains a network, or resumes a run."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from gcnet.arguments import INTERNAL, arguments_of
from gcnet.data.settings import AugmentSettings, DataSettings
from gcnet.errors import UserError
from gcnet.training.network_settings import DetectorSettings, NetworkSettings
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import MachineSettings, OutputSettings, ResumeSettings, TrainSettings

SUMMARY = "train a model, or resume a run"

_WITH_RESUME = tuple(argument.name for argument in arguments_of(ResumeSettings) if not argument.positional)


@dataclass(frozen=True)
class Settings:
    """Train a model, or resume a run.

    Defaults train a small ResNet with GC blocks on generated scenes. Ctrl-C, SIGTERM and SIGHUP save a checkpoint and
    stop; SIGUSR1 saves a checkpoint and continues; a second Ctrl-C stops at once. Under torchrun, the processes share
    each batch.

    Examples:
      gcnet train --model cifar_resnet20 --block gc --data photos --output runs/first
      gcnet train --preset finetune --model resnet50 --weights resnet50.pth --block gc --data photos
      gcnet train --model mask_rcnn_gc_resnet50 --backbone-weights resnet50.pth --data coco
      gcnet train --resume runs/first
      gcnet train --resume runs/first --epochs 200
    """

    resume: str | None = None
    """Resume the run in this folder or at this URL, bit-exactly. With it: `workers`, `device`; `epochs` or `steps`
    to change the length; `data`, `val`, `images`, `download_dir` if the data moved."""
    take_over: bool = False
    """With `resume`: replace the lock of a run at a URL if its process is lost and has not renewed it for ten
    minutes."""
    dry_run: bool = False
    """Estimate time, memory and FLOPs of the run from a few steps; writes nothing."""
    network: NetworkSettings = field(default_factory=NetworkSettings)
    """Model and block."""
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    """Options of detectors."""
    data: DataSettings = field(default_factory=DataSettings)
    """Images and preprocessing."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    """Augmentation of training images."""
    recipe: RecipeSettings = field(default_factory=RecipeSettings)
    """Optimization."""
    machine: MachineSettings = field(default_factory=MachineSettings)
    """Device and precision."""
    output: OutputSettings = field(default_factory=OutputSettings)
    """Run folder, checkpoints and logs."""
    given: tuple[str, ...] = field(default=(), metadata=INTERNAL)

    def __post_init__(self) -> None:
        """Raise for flags without effect with --resume."""
        if self.resume is None:
            if self.take_over:
                raise UserError("--take-over requires --resume")
            return
        if self.dry_run:
            raise UserError("--dry-run cannot be combined with --resume")
        for setting in [*_changed(self.run_settings()), *self.given]:
            if setting not in (*_WITH_RESUME, "resume"):
                raise UserError(
                    f"--resume takes all settings from the run; only {_flags(_WITH_RESUME)} are accepted with it, "
                    f"found --{setting.replace('_', '-')}; to train with other settings, start from the weights of the "
                    f"run: --weights {self.resume}/weights/last.safetensors"
                )

    def run_settings(self) -> TrainSettings:
        """Return the settings of a new run, without `resume`, `take_over` and `dry_run`."""
        return TrainSettings(**{item.name: getattr(self, item.name) for item in fields(TrainSettings)})


def run(settings: Settings) -> int:
    """Train, resume or estimate.

    Args:
        settings: of the command; `given` has the names of the given flags, since `--workers 0` is also a default.

    Returns:
        The exit code: 0, 3 for a loss that is not finite, or 129, 130 or 143 after a signal.
    """
    from gcnet.cli import EXIT_NON_FINITE
    from gcnet.cli.trainings import train_flags
    from gcnet.training.losses import NonFiniteLoss

    try:
        return _run(settings)
    except NonFiniteLoss as error:
        if not error.reported:
            print(f"gcnet: {train_flags(str(error))}", file=sys.stderr)
        return EXIT_NON_FINITE


def _run(settings: Settings) -> int:
    chosen = settings.run_settings()
    if settings.dry_run:
        from gcnet.devices import is_first_process
        from gcnet.workflows.dry_run import dry_run

        estimate = dry_run(chosen)
        if is_first_process():
            print(estimate)
        return 0
    from gcnet.cli.trainings import train_flags
    from gcnet.training.progress import choose_reporter
    from gcnet.workflows.resume import resume
    from gcnet.workflows.train import run_training

    reporter = choose_reporter(train_flags)
    if settings.resume is not None:
        given = {
            name: _value_of(chosen, name) for name in {*_changed(chosen), *settings.given} - {"resume", "take_over"}
        }
        result = resume(settings.resume, reporter=reporter, take_over=settings.take_over, **given)
    else:
        result = run_training(chosen, reporter=reporter)
    return result.exit_code


def _changed(settings: TrainSettings) -> list[str]:
    """The name of every setting that is not the default."""
    return [
        setting.name
        for group in fields(settings)
        for chosen, default in [(getattr(settings, group.name), getattr(TrainSettings(), group.name))]
        for setting in fields(chosen)
        if getattr(chosen, setting.name) != getattr(default, setting.name)
    ]


def _value_of(settings: TrainSettings, name: str) -> Any:
    groups = [getattr(settings, group.name) for group in fields(settings)]
    return next(getattr(group, name) for group in groups if name in {setting.name for setting in fields(group)})


def _flags(names: Sequence[str]) -> str:
    *first, last = [f"--{name.replace('_', '-')}" for name in names]
    return f"{', '.join(first)} and {last}"
