"""A trained network with its task."""

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import nn

    from gcnet.tasks.base import Task
from gcnet.tasks.results import TrainedModel


@dataclass(frozen=True)
class LoadedModel:
    """A trained network with its task.

    Attributes:
        task: the task.
        trained: the network, in eval mode.
        origin: model file, run folder or name, as given by the user.
        weights: file or published version of the weights.
    """

    task: "Task"
    trained: "TrainedModel"
    origin: str
    weights: str

    def with_model(self, model: "nn.Module") -> "LoadedModel":
        """Return a copy with the network `model` in place of the current one."""
        return replace(self, trained=replace(cast(Any, self.trained), model=model))

    @property
    def title(self) -> str:
        """Name for figures, such as "resnet50 + gc (best.safetensors)"."""
        from gcnet.models.card import network_name

        return f"{network_name(self.trained.model)} ({os.path.basename(os.path.normpath(self.origin))})"

    def describe(self) -> list[str]:
        """Return lines on the network with blocks and classes, the weights, and the device."""
        import torch

        from gcnet.insertion import inserted
        from gcnet.models.card import card_of, network_name
        from gcnet.models.weights import loaded_weights

        model = self.trained.model
        card, blocks = card_of(model), inserted(model)
        described = [f"{sum(map(torch.numel, model.parameters())):,} parameters"]
        if blocks:
            described.append(f"{sum(insertion.parameters for insertion in blocks):,} of them in inserted blocks")
        if card.num_classes:
            described.append(f"{card.num_classes:,} classes")
        first, threads = next(model.parameters()), torch.get_num_threads()
        precision = str(first.dtype).removeprefix("torch.")
        return [
            f"model: {network_name(model)}: {', '.join(described)}",
            f"weights: {loaded_weights(model) or self.weights}",
            f"device: {first.device}, {precision}, {threads} thread{'s' * (threads != 1)}",
        ]
