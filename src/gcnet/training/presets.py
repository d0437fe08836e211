"""The recipes that have a name: for classifiers from scratch and with fresh blocks, for detectors COCO's 1x and 2x."""

from collections.abc import Mapping
from dataclasses import dataclass, field

_DECAY = {"sgd": 1e-4, "adamw": 0.05}


@dataclass(frozen=True)
class Preset:
    """What a named recipe says wherever the user does not.

    Attributes:
        epochs: length.
        lr: peak learning rate by optimizer for `batch_size` images; scaled in proportion to the batch that is used.
        weight_decay: by optimizer.
        batch_size: images of one optimizer step.
        schedule: course of the learning rate after the warm-up.
        milestones: of the step schedule, as fractions of the run.
        warmup_epochs: linear warm-up, in epochs; in steps where there are `warmup_steps`.
        warmup_from: share of the learning rate at the first step of warm-up; None is one step's share.
        clip_norm: L2 norm that gradients are clipped to; 0 is off.
        freeze: patterns of parameters that stay as they are, where a network has them.
    """

    epochs: float
    lr: Mapping[str, float]
    weight_decay: Mapping[str, float] = field(default_factory=lambda: _DECAY)
    batch_size: int = 128
    schedule: str = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    warmup_epochs: float = 0.0
    warmup_steps: int | None = None
    warmup_from: float | None = None
    clip_norm: float = 0.0
    freeze: tuple[str, ...] = ()


# The stem and c2 without blocks that were put into it ("context" has no v).
_STEM = (
    "backbone.body.stem.*",
    "backbone.body.conv1.*",
    "backbone.body.bn1.*",
    "backbone.body.layer1.?.conv*",
    "backbone.body.layer1.?.[!c]*",
)


def _coco(epochs: int, first: int, second: int) -> Preset:
    """The papers' schedules on COCO (xvjiarui/GCNet, configs/gcnet: 8 GPUs of 2 images)."""
    return Preset(
        epochs=epochs,
        lr={"sgd": 0.02, "adamw": 2e-4},
        batch_size=16,
        schedule="step",
        milestones=(first / epochs, second / epochs),
        warmup_steps=500,
        warmup_from=1 / 3,
        clip_norm=35.0,
        freeze=_STEM,
    )


PRESETS: Mapping[str, Preset] = {
    # Plain ResNet, first stage: 120 epochs, linear warm-up, cosine (GCNet, ImageNet section).
    "scratch": Preset(epochs=120.0, lr={"sgd": 0.1, "adamw": 1e-3}, warmup_epochs=5.0),
    # Second stage: insert the blocks, 40 epochs, lr 0.02, cosine with Tmax 40, no warm-up (author, GCNet issue 29).
    "finetune": Preset(epochs=40.0, lr={"sgd": 0.02, "adamw": 1e-4}),
    "1x": _coco(12, 8, 11),
    "2x": _coco(24, 16, 22),
}
CLASSIFIER_PRESET, DETECTOR_PRESET = "scratch", "1x"
