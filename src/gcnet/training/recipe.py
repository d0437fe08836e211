"""Training recipes: the settings, and the presets that fill in open ones."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from gcnet.arguments import advanced, check_choices
from gcnet.errors import UserError
from gcnet.renamed import OLD_VALUES
from gcnet.training.checks import check

_DECAY = {"sgd": 1e-4, "adamw": 0.05}


@dataclass(frozen=True)
class Preset:
    """Defaults of a named recipe.

    Attributes:
        epochs: length.
        lr: peak learning rate by optimizer for `batch_size` images, scaled linearly with the batch size.
        weight_decay: by optimizer.
        batch_size: images per optimizer step.
        schedule: learning-rate schedule after warm-up.
        milestones: of the step schedule, as fractions of the run.
        warmup_epochs: linear warm-up in epochs, unless `warmup_steps` is given.
        warmup_steps: linear warm-up in steps.
        warmup_start_factor: factor of the learning rate at the first step; None for 1 / warm-up steps.
        clip_grad_norm: maximum L2 norm of the gradient; 0 disables clipping.
        freeze: glob patterns of parameters to freeze if the network has them.
        conventions: of detectors, whose losses the recipe was published with.
    """

    epochs: float
    lr: Mapping[str, float]
    weight_decay: Mapping[str, float] = field(default_factory=lambda: _DECAY)
    batch_size: int = 128
    schedule: str = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    warmup_epochs: float = 0.0
    warmup_steps: int | None = None
    warmup_start_factor: float | None = None
    clip_grad_norm: float = 0.0
    freeze: tuple[str, ...] = ()
    conventions: str = "mmdet"


# The stem and c2 without inserted blocks ("context" has no v).
_STEM = (
    "backbone.body.stem.*",
    "backbone.body.conv1.*",
    "backbone.body.bn1.*",
    "backbone.body.layer1.?.conv*",
    "backbone.body.layer1.?.[!c]*",
)


def _coco(
    epochs: int, first: int, second: int, *, conventions: str, warmup_start_factor: float, clip_grad_norm: float
) -> Preset:
    return Preset(
        epochs=epochs,
        lr={"sgd": 0.02, "adamw": 2e-4},
        batch_size=16,
        schedule="step",
        milestones=(first / epochs, second / epochs),
        warmup_steps=500,
        warmup_start_factor=warmup_start_factor,
        clip_grad_norm=clip_grad_norm,
        freeze=_STEM,
        conventions=conventions,
    )


_PAPER = {"conventions": "mmdet1", "warmup_start_factor": 1 / 3, "clip_grad_norm": 35.0}

PRESETS: Mapping[str, Preset] = {
    # Plain ResNet, first stage: 120 epochs, linear warm-up, cosine (GCNet, ImageNet section).
    "scratch": Preset(epochs=120.0, lr={"sgd": 0.1, "adamw": 1e-3}, warmup_epochs=5.0),
    # Second stage: insert the blocks, 40 epochs, lr 0.02, cosine with Tmax 40, no warm-up (author, GCNet issue 29).
    "finetune": Preset(epochs=40.0, lr={"sgd": 0.02, "adamw": 1e-4}),
    # mmdet 2 and 3, configs/_base_/schedules/schedule_1x.py: 8 GPUs of 2 images.
    "mmdet-1x": _coco(12, 8, 11, conventions="mmdet", warmup_start_factor=1e-3, clip_grad_norm=0.0),
    # The paper: xvjiarui/GCNet, configs/gcnet, with mmdet 1: 8 GPUs of 2 images.
    "paper-1x": _coco(12, 8, 11, **_PAPER),
    "paper-2x": _coco(24, 16, 22, **_PAPER),
}
CLASSIFIER_PRESET, DETECTOR_PRESET = "scratch", "mmdet-1x"

_LONGEST = 10**9


@dataclass(frozen=True)
class RecipeSettings:
    """Training recipe."""

    preset: Literal["scratch", "finetune", "mmdet-1x", "paper-1x", "paper-2x"] | None = None
    """Recipe: scratch (120 epochs) or finetune (40 epochs) for classifiers; for detectors mmdet-1x (12 epochs, as
    mmdet 2 and 3), or paper-1x or paper-2x (12 or 24 epochs, as the paper with mmdet 1), each with its `conventions`
    (default: scratch or mmdet-1x)."""
    epochs: float | None = None
    """Number of epochs (default: from `preset`)."""
    steps: int | None = advanced(None)
    """Number of optimizer steps, instead of `epochs`."""
    batch_size: int | Literal["auto"] | None = None
    """Global batch size, over all GPUs and accumulation steps (default: 128; 16 for detectors; at most the
    number of training images); auto (gcnet train only) is the default size with the smallest `grad_accumulation` that
    fits in memory."""
    grad_accumulation: int = advanced(1)
    """Gradient accumulation steps per optimizer step; `batch_size` includes them."""
    optimizer: Literal["sgd", "adamw"] = advanced("sgd")
    """Optimizer."""
    lr: float | None = None
    """Peak learning rate (default: 0.1 for scratch, 0.02 for the other presets with SGD, scaled linearly with
    `batch_size`)."""
    momentum: float = advanced(0.9)
    """SGD momentum."""
    nesterov: bool = advanced(False)
    """Use Nesterov momentum."""
    weight_decay: float | None = advanced(None)
    """Weight decay (default: 1e-4 for SGD, 0.05 for AdamW)."""
    decay_all: bool = advanced(True)
    """Apply weight decay to norms and biases, too."""
    block_lr_mult: float = advanced(1.0)
    """Learning-rate multiplier of inserted blocks."""
    schedule: Literal["cosine", "step", "constant"] | None = advanced(None)
    """Learning-rate schedule after warm-up (default: cosine; step for detectors)."""
    milestones: tuple[float, ...] | None = advanced(None)
    """Milestones of the step schedule, as fractions of the run (default: from `preset`)."""
    lr_gamma: float = advanced(0.1)
    """Learning-rate factor at each milestone."""
    min_lr: float = advanced(0.0)
    """Final learning rate of the cosine schedule."""
    warmup_epochs: float | None = advanced(None)
    """Epochs of linear warm-up (default: 5 for scratch, 0 for finetune, 500 steps for detectors; at most a
    tenth of the run)."""
    warmup_start_factor: float | None = advanced(None)
    """Learning-rate factor at the first warm-up step (default: 1/warm-up steps; 0.001 for mmdet-1x, 1/3 for
    paper-1x and paper-2x)."""
    clip_grad_norm: float | None = advanced(None)
    """Maximum gradient norm, 0 to disable (default: 35 for paper-1x and paper-2x, else 0)."""
    label_smoothing: float = advanced(0.0)
    """Label smoothing."""
    class_weights: Literal["none", "balanced"] = advanced("none")
    """Class weights in the loss; balanced is n / (k * n_c) for n_c of n images in k classes."""
    sampling: Literal["uniform", "balanced"] = advanced("uniform")
    """Sampling of training images; balanced draws all classes equally often, with repetition."""
    mixup: float = advanced(0.0)
    """Mixup alpha, 0 to disable; with `cutmix`, each step uses one of the two."""
    cutmix: float = advanced(0.0)
    """CutMix alpha, 0 to disable."""
    ema_decay: float | None = advanced(None)
    """Decay of the exponential moving average of weights, which is evaluated and saved (default: no average)."""
    freeze: tuple[str, ...] | None = advanced(None)
    """Glob patterns of parameters to freeze, such as 'layer1.*'; their batch-norm statistics are frozen, too
    (default: none; the stem and c2 of detectors with initial weights)."""
    freeze_bn_stats: bool = advanced(False)
    """Freeze running statistics of batch norms."""

    def __post_init__(self) -> None:
        """Refuse unknown names and contradictions."""
        check_choices(self, OLD_VALUES)
        check(self.steps is None or self.epochs is None, "give `epochs` or `steps`, not both")
        self._check_ranges()

    @property
    def _preset(self) -> Preset:
        return PRESETS[self.preset or CLASSIFIER_PRESET]

    @property
    def images_per_step(self) -> int:
        """The batch size, the preset's where none is given."""
        return self.batch_size if isinstance(self.batch_size, int) else self._preset.batch_size

    @property
    def peak_lr(self) -> float:
        """The learning rate, the preset's where none is given."""
        if self.lr is not None:
            return self.lr
        preset = self._preset
        return preset.lr[self.optimizer] * self.images_per_step / preset.batch_size

    @property
    def decay(self) -> float:
        """The weight decay, the preset's where none is given."""
        return self._preset.weight_decay[self.optimizer] if self.weight_decay is None else self.weight_decay

    @property
    def preset_freeze(self) -> tuple[str, ...]:
        """The preset's patterns of frozen parameters, which a network need not have."""
        return self._preset.freeze

    def scaling(self) -> str:
        """Return the origin of the learning rate in words, such as "0.1 for 128 images, scaled to 64"."""
        preset = self._preset
        if self.lr is not None:
            return "as given"
        if self.images_per_step == preset.batch_size:
            return "of the preset"
        return f"{preset.lr[self.optimizer]:g} for {preset.batch_size} images, scaled to {self.images_per_step}"

    def with_batch_size_for(self, images: int, processes: int) -> "RecipeSettings":
        """Reduce the default batch size to the number of training images, and to equal shares; a given one stays.

        Args:
            images: number of training images.
            processes: each takes an equal share of the batch, in equal micro-batches.

        Returns:
            The recipe.

        Raises:
            UserError: there are fewer images than shares.
        """
        if isinstance(self.batch_size, int):
            return self
        parts, size = processes * self.grad_accumulation, min(self.images_per_step, images)
        if size < parts:
            shares = f"{processes} processes x {self.grad_accumulation} micro-batches"
            raise UserError(f"a step needs an image or more for each of {shares}, found {images} training images")
        size -= size % parts
        return self if size == self.images_per_step else replace(self, batch_size=size)

    def length(self, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps, at least 1, for `steps_per_epoch`."""
        epochs = self._preset.epochs if self.epochs is None else self.epochs
        return self.steps if self.steps is not None else max(1, round(epochs * steps_per_epoch))

    def warmup_steps(self, steps_per_epoch: int) -> int:
        """Return the number of warm-up steps for `steps_per_epoch`; a preset's are limited to a tenth of the run."""
        if self.warmup_epochs is not None:
            return round(self.warmup_epochs * steps_per_epoch)
        preset = self._preset
        usual = round(preset.warmup_epochs * steps_per_epoch) if preset.warmup_steps is None else preset.warmup_steps
        return min(usual, self.length(steps_per_epoch) // 10)

    def with_defaults(self, preset: str = CLASSIFIER_PRESET) -> "RecipeSettings":
        """Fill in the values of the preset, except for the length.

        Args:
            preset: used if the recipe names none.

        Returns:
            The recipe.
        """
        named = replace(self, preset=self.preset or preset)
        chosen = named._preset
        open_settings = ("schedule", "milestones", "warmup_start_factor", "clip_grad_norm", "freeze")
        usual = {name: getattr(chosen, name) for name in open_settings if getattr(named, name) is None}
        return replace(named, batch_size=named.images_per_step, lr=named.peak_lr, weight_decay=named.decay, **usual)

    def with_steps(self, steps_per_epoch: int) -> "RecipeSettings":
        """Resolve the recipe completely: length and warm-up in steps for `steps_per_epoch`.

        Returns:
            The recipe.
        """
        filled = self.with_defaults()
        warmup = filled.warmup_steps(steps_per_epoch) / steps_per_epoch
        return replace(filled, epochs=None, steps=filled.length(steps_per_epoch), warmup_epochs=warmup)

    def _check_ranges(self) -> None:
        for name in ("epochs", "steps"):
            value = getattr(self, name)
            check(value is None or 0 < value <= _LONGEST, f"`{name}` must be positive and at most 10^9, found {value}")
        check(
            self.batch_size != "auto" or self.grad_accumulation == 1,
            f"`batch_size=auto` chooses `grad_accumulation`, found `grad_accumulation={self.grad_accumulation}`",
        )
        for name in ("batch_size", "grad_accumulation", "lr", "block_lr_mult"):
            value = getattr(self, name)
            check(
                value in (None, "auto") or 0 < value < math.inf, f"`{name}` must be positive and finite, found {value}"
            )
        for name in ("weight_decay", "warmup_epochs", "mixup", "cutmix", "min_lr", "clip_grad_norm"):
            value = getattr(self, name)
            check(value is None or 0 <= value < math.inf, f"`{name}` must be 0 or more and finite, found {value}")
        for name in ("momentum", "label_smoothing"):
            value = getattr(self, name)
            check(0 <= value < 1, f"`{name}` must be in [0, 1), found {value}")
        check(
            self.ema_decay is None or 0 < self.ema_decay < 1,
            f"`ema_decay` must be between 0 and 1, found {self.ema_decay}",
        )
        check(self.images_per_step % self.grad_accumulation == 0, self._uneven())
        check(not self.nesterov or self.optimizer == "sgd", "`nesterov` requires `optimizer=sgd`")
        check(not self.nesterov or self.momentum > 0, "`nesterov` needs `momentum` above 0")
        check(self.min_lr <= self.peak_lr, f"`min_lr={self.min_lr}` is above `lr={self.peak_lr}`")
        cosine = (self.schedule or self._preset.schedule) == "cosine"
        check(self.min_lr == 0 or cosine, "`min_lr` requires `schedule=cosine`")
        milestones = self.milestones or ()
        shown = " ".join(f"{at:g}" for at in milestones)
        check(
            all(0 < at < 1 for at in milestones),
            f"`milestones` are fractions of the run between 0 and 1, such as 0.67 0.92; found {shown}",
        )
        start = self.warmup_start_factor
        check(start is None or 0 <= start <= 1, f"`warmup_start_factor` must be a fraction from 0 to 1, found {start}")

    def _uneven(self) -> str:
        return (
            f"`grad_accumulation` must divide `batch_size` into equal micro-batches, found {self.grad_accumulation} "
            f"micro-batches for {self.images_per_step} images"
        )
