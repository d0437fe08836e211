"""Network source mmpretrain: ResNets and SE-ResNets of mmpretrain and mmcls."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gcnet.checkpoints.key_table import KeyTable, Rule, block_rules
from gcnet.checkpoints.mm_config import class_names
from gcnet.checkpoints.mmcv_blocks import Backbone
from gcnet.checkpoints.network import NetworkDescription, NetworkSource, require
from gcnet.checkpoints.residual_networks import residual_network, residual_rules
from gcnet.checkpoints.source import SE_TABLE
from gcnet.checkpoints.weight_file import WeightFile

_NAME = "mmpretrain"
_SE = "se_layer"
_SE_TABLE = {key.replace("fc", "conv").replace(".", ".conv."): value for key, value in SE_TABLE.items()}
# ResizeEdge(256) and CenterCrop(224) of the test pipelines for ImageNet.
_PREPROCESSING = {"image_size": 224, "resize": 256, "interpolation": "bilinear"}


class MmpretrainSource(NetworkSource):
    """Checkpoints of mmpretrain's `ImageClassifier` with a ResNet or an SE-ResNet."""

    def recognizes(self, weights: WeightFile) -> bool:
        return {"head.fc.weight", "backbone.conv1.weight"} <= weights.tensors.keys() or (
            "head.fc.weight" in weights.tensors and "backbone.stem.0.conv.weight" in weights.tensors
        )

    def describe(self, weights: WeightFile) -> NetworkDescription:
        Backbone(weights).require_usual_layers(_NAME)
        classes = require(weights, "head.fc.bias", _NAME).shape[0]
        names = class_names(weights)
        return NetworkDescription(
            residual_network(weights, "backbone.", _NAME),
            num_classes=classes,
            insertions=_squeeze_excitation(weights),
            class_names=names if names is not None and len(names) == classes else None,
            preprocessing=_PREPROCESSING,
            notes=("preprocessing is that of ImageNet: short side to 256 pixels, center crop of 224",),
        )

    def convert(self, tensors: Mapping[str, Tensor], network: NetworkDescription) -> dict[str, Tensor]:  # noqa: ARG002
        return _TABLE.to_ours(tensors)

    def to_library(self, tensors: Mapping[str, Tensor], network: NetworkDescription) -> dict[str, Tensor]:  # noqa: ARG002
        return _TABLE.to_theirs(tensors)


_TABLE = KeyTable(
    [
        *block_rules(f"backbone.layer#.#.{_SE}", "layer#.#.context", _SE_TABLE),
        *residual_rules("backbone.", ""),
        Rule("head.fc.*", "fc.*"),
    ]
)


def _squeeze_excitation(weights: WeightFile) -> tuple[dict[str, Any], ...]:
    """The arguments of `gcnet.insert` for `SELayer`, which follows the last norm of a bottleneck."""
    backbone = Backbone(weights)
    places = backbone.places(_SE)
    if not places:
        return ()
    prefix = f"{backbone.key(places[0])}{_SE}."
    narrow, wide = (require(weights, f"{prefix}conv{number}.conv.bias", _NAME).shape[0] for number in (1, 2))
    ratio = wide / narrow
    return ({"block": "se", "ratio": ratio, **backbone.sites(_SE), "position": "after_norm"},)
