"""`gcnet train`: train a network, or go on with an interrupted run."""

import sys
from dataclasses import dataclass, field, fields

from gcnet.data.settings import AugmentSettings, DataSettings
from gcnet.errors import UserError
from gcnet.training.settings import (
    DetectorSettings,
    MachineSettings,
    NetworkSettings,
    OutputSettings,
    RecipeSettings,
    TrainSettings,
)

SUMMARY = "train a network, or go on with an interrupted run"

_WITH_RESUME = ("workers", "device")


@dataclass(frozen=True)
class Settings:
    """Train a network on images, or go on with an interrupted run.

    Without arguments: a small residual network with global context on generated scenes. Ctrl-C and SIGTERM save and
    stop, SIGUSR1 saves and goes on; a second Ctrl-C ends at once. Under torchrun the processes share every batch.

    For example:

      gcnet train --model cifar_resnet20 --block gc --data photos --output runs/first
      gcnet train --preset finetune --model resnet50 --weights resnet50.pth --block gc --data photos
      gcnet train --model mask_rcnn_gc_resnet50 --backbone-weights resnet50.pth --data coco
      gcnet train --resume runs/first
    """

    resume: str | None = None
    """Go on with the run in this folder, to the same bits as if it had not stopped; only --workers and --device may
    stand beside it."""
    dry_run: bool = False
    """Only train on a few batches, and say FLOPs, memory and how long the whole run would take."""
    network: NetworkSettings = field(default_factory=NetworkSettings)
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    recipe: RecipeSettings = field(default_factory=RecipeSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    output: OutputSettings = field(default_factory=OutputSettings)

    def __post_init__(self) -> None:
        """Refuse what would have no effect beside --resume."""
        if self.resume is None:
            return
        if self.dry_run:
            raise UserError("--dry-run is for a run that has not begun, not for --resume")
        for group, setting, value in _changed(self.run_settings()):
            if setting not in _WITH_RESUME:
                raise UserError(
                    f"--resume takes all settings from the run; only --workers and --device may stand beside it, "
                    f"found --{setting.replace('_', '-')} {value} ({group})"
                )

    def run_settings(self) -> TrainSettings:
        """The groups as one."""
        return TrainSettings(**{item.name: getattr(self, item.name) for item in fields(TrainSettings)})


def run(settings: Settings) -> int:
    """Train, resume or estimate; the exit code says how it ended."""
    from gcnet.training.nonfinite import EXIT_NON_FINITE, NonFiniteLoss

    try:
        return _run(settings)
    except NonFiniteLoss as error:
        print(f"gcnet: {error}", file=sys.stderr)
        return EXIT_NON_FINITE


def _run(settings: Settings) -> int:
    chosen = settings.run_settings()
    if settings.dry_run:
        from gcnet.training.dry_run import dry_run

        print(dry_run(chosen))
        return 0
    from gcnet.training.run import resume, train

    if settings.resume is not None:
        device = None if chosen.machine.device == "auto" else chosen.machine.device
        result = resume(settings.resume, workers=chosen.data.workers or None, device=device)
    else:
        result = train(chosen)
    return result.exit_code


def _changed(settings: TrainSettings) -> list[tuple[str, str, object]]:
    """Group, name and value of every setting that is not the default."""
    return [
        (group.name, setting.name, getattr(chosen, setting.name))
        for group in fields(settings)
        for chosen, default in [(getattr(settings, group.name), getattr(TrainSettings(), group.name))]
        for setting in fields(chosen)
        if getattr(chosen, setting.name) != getattr(default, setting.name)
    ]
