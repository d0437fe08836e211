"""The recipes that have a name: training from scratch, and the paper's fine-tuning of a network with fresh blocks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

_DECAY = {"sgd": 1e-4, "adamw": 0.05}


@dataclass(frozen=True)
class Preset:
    """What a named recipe says wherever the user does not: learning rate and decay by optimizer, lengths in epochs."""

    epochs: float
    lr: Mapping[str, float]
    warmup_epochs: float
    weight_decay: Mapping[str, float] = field(default_factory=lambda: _DECAY)


PRESETS: Mapping[str, Preset] = {
    # Plain ResNet, first stage: 120 epochs, linear warm-up, cosine (GCNet, ImageNet section).
    "scratch": Preset(epochs=120.0, lr={"sgd": 0.1, "adamw": 1e-3}, warmup_epochs=5.0),
    # Second stage: insert the blocks, 40 epochs, lr 0.02, cosine with Tmax 40, no warm-up (author, GCNet issue 29).
    "finetune": Preset(epochs=40.0, lr={"sgd": 0.02, "adamw": 1e-4}, warmup_epochs=0.0),
}
