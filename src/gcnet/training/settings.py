"""The settings of a training run: frozen dataclasses with the help text beside each field, checked on construction."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from gcnet.data.settings import AugmentSettings, DataSettings
from gcnet.errors import UserError, nearest, unknown
from gcnet.training.presets import PRESETS

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "preset": tuple(PRESETS),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("cosine", "step", "constant"),
}


def require(condition: bool, sentence: str) -> None:
    """Refuse settings that contradict each other or make no sense.

    Raises:
        UserError: `sentence`, where `condition` does not hold.
    """
    if not condition:
        raise UserError(sentence)


@dataclass(frozen=True)
class NetworkSettings:
    """The network, and the blocks that are put into it."""

    model: str = "gc_cifar_resnet20"
    """Network by name (`gcnet models` lists them); gc_, snl_, se_ or nl_ in front puts that block into it."""
    weights: str | None = None
    """Start from these weights of the plain network or the one with blocks: a file, or "pretrained" (published)."""
    block: str | None = None
    """Block to insert (`gcnet blocks` lists them)."""
    ratio: float | None = None
    """Reduction ratio r of the block: its bottleneck has C/r channels."""
    stages: tuple[int, ...] | None = None
    """Stages that get the block, in the paper's numbers: 2 to 5 (c2 to c5), in a CIFAR network 1 to 3."""
    blocks: tuple[int, ...] | None = None
    """Residual blocks of each stage that get it, by index; negative counts from the end."""
    position: str | None = None
    """Place within the residual block: after_norm, after_add or after_conv2."""
    options: tuple[str, ...] = ()
    """Options of the block as NAME=VALUE, such as pooling=average."""

    def __post_init__(self) -> None:
        """Check what needs no look at the network."""
        require(self.ratio is None or self.ratio > 0, f"--ratio must be positive, found {self.ratio}")
        for option in self.options:
            require("=" in option, f'--options takes NAME=VALUE, such as pooling=average; found "{option}"')

    def block_options(self) -> dict[str, Any]:
        """`options` by name; numbers, true, false and null are read as such, everything else is text."""
        pairs = (option.split("=", 1) for option in self.options)
        return {name.strip().replace("-", "_"): _value(text.strip()) for name, text in pairs}


@dataclass(frozen=True)
class RecipeSettings:
    """How it is trained; what is not given comes from the preset."""

    preset: Literal["scratch", "finetune"] = "scratch"
    """scratch (120 epochs, lr 0.1), or finetune: new blocks in a trained network, as in the paper (40, lr 0.02)."""
    epochs: float | None = None
    """Passes over the training images (default: the preset's)."""
    steps: int | None = None
    """Length in optimizer steps, instead of --epochs."""
    batch_size: int = 128
    """Images of one optimizer step, over all processes and micro-batches; --lr is for exactly this batch."""
    accumulate: int = 1
    """Micro-batches that make up one step: less memory, the same gradient (but for batch statistics)."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimizer."""
    lr: float | None = None
    """Peak learning rate for the stated --batch-size; it is never rescaled (default: the preset's)."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov momentum in SGD."""
    weight_decay: float | None = None
    """Weight decay (default: 1e-4 for SGD, 0.05 for AdamW)."""
    decay_all: bool = True
    """Weight decay on norms and biases too; --no-decay-all leaves them out."""
    block_lr: float = 1.0
    """Factor on the learning rate of the inserted blocks."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Where the step schedule multiplies by --step-factor, as fractions of the run."""
    step_factor: float = 0.1
    """Factor of the step schedule."""
    final_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    warmup_epochs: float | None = None
    """Linear warm-up, in epochs (default: the preset's, at most a tenth of the run)."""
    clip_norm: float | None = None
    """Clip the gradient to this L2 norm."""
    label_smoothing: float = 0.0
    """Label smoothing."""
    mixup: float = 0.0
    """Mixup with Beta(alpha, alpha); 0 is off; with --cutmix one of the two is drawn for every step."""
    cutmix: float = 0.0
    """Cutmix with Beta(alpha, alpha); 0 is off."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, which is then what is evaluated and saved."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are, by pattern: 'layer1.*' 'conv1.*'."""
    freeze_norms: bool = False
    """Keep the statistics of batch norms as loaded (norms run in evaluation mode)."""

    def __post_init__(self) -> None:
        """Refuse unknown names and contradictions."""
        for name, valid in _CHOICES.items():
            if getattr(self, name) not in valid:
                raise unknown(name, getattr(self, name), valid)
        require(self.steps is None or self.epochs is None, "give --epochs or --steps, not both")
        self._check_ranges()

    @property
    def peak_lr(self) -> float:
        """The learning rate, the preset's where none is given."""
        return PRESETS[self.preset].lr[self.optimizer] if self.lr is None else self.lr

    @property
    def decay(self) -> float:
        """The weight decay, the preset's where none is given."""
        return PRESETS[self.preset].weight_decay[self.optimizer] if self.weight_decay is None else self.weight_decay

    def length(self, steps_per_epoch: int) -> int:
        """Optimizer steps in all, at least one."""
        epochs = PRESETS[self.preset].epochs if self.epochs is None else self.epochs
        return self.steps if self.steps is not None else max(1, round(epochs * steps_per_epoch))

    def warmup_steps(self, steps_per_epoch: int) -> int:
        """Steps of linear warm-up; the preset's number of epochs is cut to a tenth of a short run."""
        if self.warmup_epochs is not None:
            return round(self.warmup_epochs * steps_per_epoch)
        return min(round(PRESETS[self.preset].warmup_epochs * steps_per_epoch), self.length(steps_per_epoch) // 10)

    def resolved(self, steps_per_epoch: int) -> "RecipeSettings":
        """The same recipe with nothing left to the preset."""
        return replace(
            self,
            epochs=None,
            steps=self.length(steps_per_epoch),
            lr=self.peak_lr,
            weight_decay=self.decay,
            warmup_epochs=self.warmup_steps(steps_per_epoch) / steps_per_epoch,
        )

    def _check_ranges(self) -> None:
        for name in ("epochs", "steps", "batch_size", "accumulate", "lr", "clip_norm", "block_lr"):
            value = getattr(self, name)
            require(value is None or 0 < value < math.inf, f"{_flag(name)} must be positive, found {value}")
        for name in ("weight_decay", "warmup_epochs", "mixup", "cutmix", "final_lr"):
            value = getattr(self, name)
            require(value is None or 0 <= value < math.inf, f"{_flag(name)} must be 0 or more, found {value}")
        for name in ("momentum", "label_smoothing"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{_flag(name)} must be in [0, 1), found {value}")
        require(self.ema is None or 0 < self.ema < 1, f"--ema is a decay between 0 and 1, found {self.ema}")
        require(self.batch_size % self.accumulate == 0, self._uneven())
        require(not self.nesterov or self.optimizer == "sgd", "--nesterov belongs to --optimizer sgd")
        require(not self.nesterov or self.momentum > 0, "--nesterov needs --momentum above 0")
        require(self.final_lr <= self.peak_lr, f"--final-lr {self.final_lr} is above --lr {self.peak_lr}")
        require(self.final_lr == 0 or self.schedule == "cosine", "--final-lr belongs to --schedule cosine")
        require(all(0 < at < 1 for at in self.milestones), "--milestones are fractions of the run between 0 and 1")

    def _uneven(self) -> str:
        return (
            f"--accumulate must divide --batch-size into equal micro-batches, found {self.accumulate} "
            f"micro-batches for {self.batch_size} images"
        )


@dataclass(frozen=True)
class MachineSettings:
    """Where it runs, and in which numbers."""

    device: str = "auto"
    """auto (cuda if there is one), cpu, cuda or cuda:N; under torchrun each process takes its own GPU."""
    seed: int = 0
    """Seed of everything drawn at random: initial weights, data order, augmentation, dropout."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Numbers of the forward pass; bf16 and fp16 are autocast (fp16 with loss scaling)."""
    channels_last: bool = False
    """Channels-last memory for network and images (faster on recent GPUs)."""
    deterministic: bool = False
    """Deterministic GPU kernels: slower, and a resumed run is then exact to the bit on a GPU too."""

    def __post_init__(self) -> None:
        """Check the names."""
        require(self.seed >= 0, f"--seed must be 0 or more, found {self.seed}")
        if self.precision not in ("float32", "bf16", "fp16"):
            raise unknown("precision", self.precision, ("float32", "bf16", "fp16"))


@dataclass(frozen=True)
class OutputSettings:
    """What the run leaves behind, and when."""

    output: str | None = None
    """Run folder, which must not exist yet (default: runs/NAME, with a number behind it where that is taken)."""
    save_every_steps: int | None = None
    """Checkpoint every so many steps."""
    save_every_epochs: float | None = 1.0
    """Checkpoint every so many epochs (None: not by epoch)."""
    save_every_minutes: float | None = None
    """Checkpoint every so many minutes."""
    evaluate_every: float = 1.0
    """Evaluate every so many epochs; the end of the run is always evaluated."""
    log_every: int = 10
    """Write a row to metrics.jsonl every so many steps."""
    pictures: bool = True
    """Draw learning curves, confusion matrix and a sample of training images."""

    def __post_init__(self) -> None:
        """Check the intervals."""
        for name in ("save_every_steps", "save_every_epochs", "save_every_minutes", "evaluate_every", "log_every"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{_flag(name)} must be positive, found {value}")


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides a training run; stored, with nothing left open, in its config.json."""

    network: NetworkSettings = field(default_factory=NetworkSettings)
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    recipe: RecipeSettings = field(default_factory=RecipeSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    output: OutputSettings = field(default_factory=OutputSettings)

    def anchored(self) -> "TrainSettings":
        """The same settings with absolute paths, so that a run can be resumed from any folder."""
        data, network = self.data, self.network
        places = {"root": os.path.abspath(data.root)}
        if os.path.exists(data.data) and not data.is_generated:
            places["data"] = os.path.abspath(data.data)
        weights = network.weights
        if weights is not None and os.path.exists(weights):
            weights = os.path.abspath(weights)
        return replace(self, data=replace(data, **places), network=replace(network, weights=weights))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, one entry a group."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "TrainSettings":
        """The settings that `to_dict` wrote.

        Raises:
            UserError: for a group or a setting that this version does not know.
        """
        groups = {item.name: item.default_factory for item in fields(cls)}
        for name in stored:
            if name not in groups:
                raise unknown("group of settings", name, groups)
        return cls(**{name: _group(groups[name], values) for name, values in stored.items()})


def _group(kind: Any, values: Mapping[str, Any]) -> Any:
    valid = [item.name for item in fields(kind)]
    for name in values:
        if name not in valid:
            raise UserError(f'config.json: unknown setting "{name}"{nearest(name, valid)}')
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except json.JSONDecodeError:
        return text


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def override(settings: TrainSettings, **changes: Any) -> TrainSettings:
    """A copy with single settings changed by name, whichever group they are in: `override(settings, lr=0.1, seed=1)`.

    Raises:
        UserError: for a name that no group has.
    """
    groups = {item.name: getattr(settings, item.name) for item in fields(settings)}
    owners = {setting.name: name for name, group in groups.items() if is_dataclass(group) for setting in fields(group)}
    changed: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if name not in owners:
            raise unknown("setting", name, owners)
        changed.setdefault(owners[name], {})[name] = value
    return replace(settings, **{group: replace(groups[group], **values) for group, values in changed.items()})
