"""Blocks of mmcv in the residual blocks of OpenMMLab's networks: what and where they are, and their key tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gcnet.checkpoints.convert import SOURCES, convert_block
from gcnet.checkpoints.key_table import Rule, block_rules
from gcnet.checkpoints.mm_config import backbone_config
from gcnet.checkpoints.mmcv import CONTEXT_TABLE, non_local_table
from gcnet.checkpoints.residual_networks import block_places, block_weights, sites, stage_sizes
from gcnet.checkpoints.source import BlockWeights
from gcnet.checkpoints.weight_file import WeightFile
from gcnet.errors import UserError

Insertions = tuple[Mapping[str, Any], ...]
"""Arguments of `gcnet.insert`, call by call, the block as "block"."""

_CONTEXT, _NON_LOCAL = "context_block", "nonlocal_block"
_POSITIONS = {"after_conv3": "after_norm", "after_conv2": "after_conv2"}
_FIRST_POSITIONS = {"after_1x1": "after_conv3", "after_3x3": "after_conv2"}
_DEFAULTS = {"pooling": "attention", "fusion": "add", "norm_eps": 1e-5, "sub_sample": False, "normalization": "none"}
_OUTPUT_BIAS = ".context.add.transform.0.bias"  # of the output convolution before a batch norm; mmcv has none


@dataclass(frozen=True)
class Backbone:
    """The residual network of a checkpoint.

    Attributes:
        weights: the checkpoint.
        theirs: prefix of the network's keys, such as "backbone.".
        ours: prefix of the network within ours, such as "backbone.body.".
    """

    weights: WeightFile
    theirs: str = "backbone."
    ours: str = ""

    def places(self, child: str) -> list[tuple[int, int]]:
        """Return layer and index of the residual blocks that have a child of the name `child`."""
        return block_places(self.weights, self.theirs, child)

    def sites(self, child: str) -> dict[str, Any]:
        """Return the arguments of `gcnet.insert` for the residual blocks with a child of the name `child`."""
        return sites(self.places(child), stage_sizes(self.weights, self.theirs), self.ours)

    def require_usual_layers(self, source: str) -> None:
        """Check that the network has one convolution in its stem and strides in the 3x3 convolutions.

        Args:
            source: name of the source, for errors.

        Raises:
            UserError: it has not; gcnet has no such network.
        """
        origin = self.weights.origin
        if any(key.startswith(f"{self.theirs}stem.") for key in self.weights.tensors):
            raise UserError(
                f"{origin} is a checkpoint of {source} with a stem of three convolutions (ResNetV1c or V1d), and gcnet "
                "has this network with one"
            )
        if backbone_config(self.weights).get("style") == "caffe":
            raise UserError(
                f"{origin} is a checkpoint of {source} with strides in the first convolution of bottlenecks (style "
                "caffe), and gcnet has them in the second (style pytorch)"
            )

    def key(self, place: tuple[int, int]) -> str:
        """Return the prefix of the keys of the residual block at `place`."""
        return f"{self.theirs}layer{place[0]}.{place[1]}."


def plugin_insertions(backbone: Backbone) -> Insertions:
    """Return the context and non-local blocks that are plugins of the bottlenecks of mmdet's ResNet.

    Args:
        backbone: of the checkpoint.

    Raises:
        UserError: damaged blocks, or blocks whose kind or position neither keys nor metadata tell, or gcnet lacks.
    """
    insertions = []
    for child in (_CONTEXT, _NON_LOCAL):
        places = backbone.places(child)
        if places:
            block = block_weights(backbone.weights, f"{backbone.key(places[0])}{child}.")
            channels, position = _position(backbone, places[0], block, child)
            described = context_block if child == _CONTEXT else non_local_block
            options = described(backbone, f"{backbone.key(places[0])}{child}", channels, _plugin(backbone, child))
            insertions.append({**options, **backbone.sites(child), "position": position})
    return tuple(insertions)


def context_block(backbone: Backbone, prefix: str, channels: int, _: Mapping[str, Any]) -> dict[str, Any]:
    """Return name and options of the global context block of a checkpoint.

    Args:
        backbone: of the checkpoint.
        prefix: of the block's keys, without the dot at its end.
        channels: C of its maps.

    Raises:
        UserError: its keys or shapes are not those of mmcv's `ContextBlock`.
    """
    return _described(backbone.weights, prefix, "mmcv_context", channels)


def non_local_block(backbone: Backbone, prefix: str, channels: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return name and options of the non-local block of a checkpoint.

    Args:
        backbone: of the checkpoint.
        prefix: of the block's keys, without the dot at its end.
        channels: C of its maps.
        config: arguments of mmcv's class; empty if unknown.

    Raises:
        UserError: its keys or shapes are not those of mmcv's `NonLocalNd`, or the configuration, which alone tells dot
            product from embedded Gaussian, is missing.
    """
    weights = backbone.weights
    has_mode = f"{prefix}.theta.conv.weight" in weights.tensors
    if has_mode and f"{prefix}.concat_project.conv.weight" not in weights.tensors and not config:
        raise UserError(
            f"{weights.origin} has non-local blocks of mode embedded_gaussian or dot_product, whose keys are the same, "
            "and no configuration in its metadata that tells which"
        )
    mode = str(config.get("mode", "embedded_gaussian")) if has_mode else None
    scaled = False if mode == "embedded_gaussian" and config.get("use_scale") is False else None
    return _described(weights, prefix, "mmcv_non_local", channels, mode=mode, use_scale=scaled)


def _described(weights: WeightFile, prefix: str, source: str, channels: int, **known: Any) -> dict[str, Any]:
    block = block_weights(weights, f"{prefix}.")
    try:
        converted = convert_block(block, source)
        name, options = SOURCES[source].describe(BlockWeights(block, converted, channels, **known))
    except UserError as error:
        raise UserError(f"{weights.origin}, {prefix}: {error}") from error
    if options.get("use_scale") is True:
        options.pop("use_scale")
    return {"block": name, **{key: value for key, value in options.items() if value != _DEFAULTS.get(key)}}


def plugin_rules(theirs: str, ours: str, insertions: Insertions) -> list[Rule]:
    """Return the rules of the plugins of residual blocks.

    Args:
        theirs: pattern of the keys of a residual block, without the dot at its end.
        ours: pattern of ours.
        insertions: as `plugin_insertions` returns them.
    """
    rules: list[Rule] = []
    for insertion in insertions:
        child, table, dims = _CONTEXT, CONTEXT_TABLE, 2
        if insertion["block"].startswith("nl_"):
            child, table = _NON_LOCAL, non_local_rules_table(insertion)
        rules += block_rules(f"{theirs}.{child}", f"{ours}.context", table, dims)
    return rules


def non_local_rules_table(insertion: Mapping[str, Any]) -> dict[str, Any]:
    """Return mmcv's key table of the non-local block in `insertion`, arguments of `gcnet.insert`."""
    return non_local_table(
        insertion["block"].removeprefix("nl_"),
        sub_sample=insertion.get("sub_sample", False),
        normalized=insertion.get("normalization") == "batch",
    )


def with_output_bias(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the zero bias of each output convolution before a batch norm, which mmcv does not have.

    Args:
        tensors: by our keys.

    Returns:
        All tensors, by our keys.
    """
    kernels = {key: value for key, value in tensors.items() if key.endswith(_OUTPUT_BIAS.replace("bias", "weight"))}
    biases = {f"{key.removesuffix('weight')}bias": value.new_zeros(len(value)) for key, value in kernels.items()}
    return {**tensors, **biases}


def without_output_bias(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Subtract the bias of each output convolution before a batch norm from the mean of the norm: the same outputs.

    Args:
        tensors: by our keys.

    Returns:
        The tensors without these biases, by our keys.
    """
    kept = {key: value for key, value in tensors.items() if not key.endswith(_OUTPUT_BIAS)}
    for key in tensors.keys() - kept.keys():
        mean = f"{key.removesuffix('0.bias')}1.running_mean"
        kept[mean] = tensors[mean] - tensors[key]
    return kept


def _plugin(backbone: Backbone, child: str) -> Mapping[str, Any]:
    """The entry of the plugin in the configuration, empty if it has none: position, and arguments of the class."""
    config = backbone_config(backbone.weights)
    first = config.get("gcb") or config.get("ct")  # of mmdet 1.x and of the first version of xvjiarui/GCNet
    if isinstance(first, dict) and child == _CONTEXT:
        return {"position": _FIRST_POSITIONS.get(str(first.get("insert_pos", "after_1x1")), "after the addition")}
    plugins = config.get("plugins")
    kind = "ContextBlock" if child == _CONTEXT else "NonLocal2d"
    for plugin in plugins if isinstance(plugins, list) else []:
        settings = plugin.get("cfg") if isinstance(plugin, dict) else None
        if isinstance(settings, dict) and settings.get("type") == kind:
            return {**settings, "position": plugin.get("position")}
    return {}


def _position(backbone: Backbone, place: tuple[int, int], block: Mapping[str, Tensor], child: str) -> tuple[int, str]:
    """Channels and position of the blocks: by their channels, or by the configuration where keys do not tell."""
    first, weights = backbone.key(place), backbone.weights
    last = f"{first}{'bn3' if f'{first}bn3.bias' in weights.tensors else 'bn2'}.bias"
    # The convolution that returns to the channels of the maps.
    outputs = [key for key in block if key.endswith(("_conv.3.weight", "conv_out.conv.weight"))]
    if not outputs or last not in weights.tensors:
        lacking = f"{first}{child} has no output convolution" if not outputs else f"it lacks {last}"
        raise UserError(f"{weights.origin} is damaged: {lacking}")
    channels = block[outputs[0]].shape[0]
    position = _plugin(backbone, child).get("position")
    if channels == weights.tensors[last].numel() and position is None:
        return channels, "after_norm"
    if position is None:
        raise UserError(
            f"{weights.origin} has blocks of {channels} channels, and neither its keys nor a configuration in its "
            "metadata tell whether they follow the first or the second convolution of the residual blocks"
        )
    if str(position) not in _POSITIONS:
        raise UserError(f"{weights.origin} has blocks {position}, and gcnet has them {' or '.join(_POSITIONS)}")
    return channels, _POSITIONS[str(position)]
