"""Network source mmaction: I3D, slow-only and TSM networks of mmaction2 with non-local blocks."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gcnet.checkpoints.key_table import KeyTable, Rule, block_rules
from gcnet.checkpoints.mm_config import backbone_config, class_names
from gcnet.checkpoints.mmcv_blocks import (
    Backbone,
    non_local_block,
    non_local_rules_table,
    with_output_bias,
    without_output_bias,
)
from gcnet.checkpoints.network import NetworkDescription, NetworkSource, require
from gcnet.checkpoints.residual_networks import residual_network
from gcnet.checkpoints.weight_file import WeightFile
from gcnet.errors import UserError

_NAME = "mmaction"
_BLOCK = "non_local_block"
_CLIP = (1, 3, 8, 64, 64)  # example input of the insertion
# By class of the backbone: our network, and options that keys do not show, with mmaction2's defaults.
_NETWORKS: Mapping[str, tuple[str, Mapping[str, tuple[Any, Any]]]] = {
    "ResNet3d": ("i3d_resnet50", {"conv1_stride_t": (2, 1), "pool1_stride_t": (2, 1), "with_pool2": (True, True)}),
    "ResNet3dSlowOnly": (
        "slowonly_resnet50",
        {"conv1_stride_t": (1, 1), "pool1_stride_t": (1, 1), "with_pool2": (False, False)},
    ),
    "ResNetTSM": ("tsm_resnet50", {"shift_div": (8, 8), "shift_place": ("blockres", "blockres")}),
}
_TSM = "tsm_resnet50"


class MmactionSource(NetworkSource):
    """Checkpoints of mmaction2's recognizers with a ResNet-50 for clips."""

    def recognizes(self, weights: WeightFile) -> bool:
        return {"cls_head.fc_cls.weight", "backbone.conv1.conv.weight"} <= weights.tensors.keys()

    def describe(self, weights: WeightFile) -> NetworkDescription:
        config = backbone_config(weights)
        if not config:
            raise UserError(
                f"{weights.origin} is a checkpoint of {_NAME} without its configuration in the metadata, which alone "
                "tells strides over frames: convert the whole file instead of its state dict"
            )
        name = self._architecture(weights, config)
        return NetworkDescription(
            name,
            num_classes=require(weights, "cls_head.fc_cls.bias", _NAME).shape[0],
            insertions=_non_local(weights, config),
            class_names=class_names(weights),
            notes=("the network takes clips (N, 3, T, H, W), normalized; the commands take images",),
        )

    def convert(self, tensors: Mapping[str, Tensor], network: NetworkDescription) -> dict[str, Tensor]:
        return with_output_bias(_table(network).to_ours(tensors))

    def to_library(self, tensors: Mapping[str, Tensor], network: NetworkDescription) -> dict[str, Tensor]:
        return _table(network).to_theirs(without_output_bias(tensors))

    def _architecture(self, weights: WeightFile, config: Mapping[str, Any]) -> str:
        kind = str(config.get("type"))
        depth = residual_network(weights, "backbone.", _NAME, conv="conv.")
        if kind not in _NETWORKS or depth != "resnet50":
            raise UserError(
                f"{weights.origin} is a checkpoint of {_NAME} with a {kind} ({depth}), and gcnet has "
                f"{', '.join(_NETWORKS)} with ResNet-50"
            )
        name, options = _NETWORKS[kind]
        usual = {"style": ("pytorch", "pytorch"), "temporal_pool": (False, False)}
        for option, (value, default) in {**options, **usual}.items():
            if config.get(option, default) != value:
                raise UserError(
                    f"{weights.origin} is a checkpoint of {_NAME} with {option} {config.get(option, default)} in its "
                    f"{kind}, and gcnet's has {value}"
                )
        return name


def _non_local(weights: WeightFile, config: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The arguments of `gcnet.insert` for non-local blocks, which follow residual blocks."""
    backbone = Backbone(weights)
    places = backbone.places(_BLOCK)
    if not places:
        return ()
    prefix = f"{backbone.key(places[0])}{_BLOCK}"
    channels = require(weights, f"{prefix}.conv_out.conv.weight", _NAME).shape[0]
    settings = config.get("non_local_cfg")
    options = non_local_block(backbone, prefix, channels, settings if isinstance(settings, dict) else {})
    at = tuple(f"layer{layer}.{index}" for layer, index in places)
    return ({**options, "at": at, "example_input": _CLIP},)


def _table(network: NetworkDescription) -> KeyTable:
    frames = network.architecture == _TSM
    places = [place for insertion in network.insertions for place in insertion["at"]]
    # TSM wraps residual blocks with a non-local block, and their convolutions over frames.
    wrapped = [_layer_rules(f"backbone.{place}.block", place, frames) for place in places if frames]
    blocks = [
        block_rules(f"backbone.layer#.#.{_BLOCK}", "layer#.#.context", non_local_rules_table(insertion), dims=3)
        for insertion in network.insertions
    ]
    return KeyTable(
        [
            *(rule for rules in (*blocks, *wrapped) for rule in rules),
            *_layer_rules("backbone.layer#.#", "layer#.#", frames),
            Rule("backbone.conv1.conv.weight", "conv1.weight", *_conv(frames)),
            Rule("backbone.conv1.bn.*", "bn1.*"),
            Rule("cls_head.fc_cls.*", "fc.*"),
        ]
    )


def _layer_rules(theirs: str, ours: str, frames: bool) -> list[Rule]:
    """The rules of a residual block; `frames` of TSM, whose convolutions have two axes."""
    names = {"conv1": "conv1.conv.net" if frames else "conv1.conv", "conv2": "conv2.conv", "conv3": "conv3.conv"}
    return [
        *(Rule(f"{theirs}.{name}.weight", f"{ours}.{own}.weight", *_conv(frames)) for own, name in names.items()),
        *(Rule(f"{theirs}.conv{number}.bn.*", f"{ours}.bn{number}.*") for number in (1, 2, 3)),
        Rule(f"{theirs}.downsample.conv.weight", f"{ours}.downsample.0.weight", *_conv(frames)),
        Rule(f"{theirs}.downsample.bn.*", f"{ours}.downsample.1.*"),
    ]


def _conv(frames: bool) -> tuple[Any, ...]:
    """What happens to a kernel, and its inverse: those of TSM have no axis of frames."""
    return (lambda kernel: kernel.unsqueeze(2), lambda kernel: kernel.squeeze(2)) if frames else ()
