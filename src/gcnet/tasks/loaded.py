"""`LoadedModel`: a trained network with its weights and where it is from."""

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from gcnet.tasks.results import TrainedModel

if TYPE_CHECKING:
    from torch import nn

_Loaded = TypeVar("_Loaded", bound="LoadedModel")


@dataclass(frozen=True)
class LoadedModel:
    """A trained network and where it is from.

    Attributes:
        trained: the network, in eval mode.
        origin: model file, run folder or name, as given by the user.
        weights: file or published version of the weights.
    """

    trained: TrainedModel
    origin: str
    weights: str

    def with_model(self: _Loaded, model: "nn.Module") -> _Loaded:
        """Return a copy with the network `model` in place of the current one."""
        return replace(self, trained=replace(cast(Any, self.trained), model=model))

    @property
    def source(self) -> str:
        """`origin`, of a model on the Hub with its commit."""
        from gcnet.checkpoints.hub import is_hub_name, with_commit

        return with_commit(self.origin) if is_hub_name(self.origin) else self.origin

    @property
    def title(self) -> str:
        """Name for figures, such as "resnet50 + gc (best.safetensors)"."""
        from gcnet.models.card import network_name

        return f"{network_name(self.trained.model)} ({os.path.basename(os.path.normpath(self.origin))})"
