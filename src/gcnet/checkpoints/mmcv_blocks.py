"""Blocks of mmcv within the residual blocks of OpenMMLab's networks: where they are, and their rules in key tables."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gcnet.checkpoints.convert import SOURCES, convert_block
from gcnet.checkpoints.key_table import Rule, block_rules
from gcnet.checkpoints.mm_config import backbone_config
from gcnet.checkpoints.mmcv import CONTEXT_TABLE
from gcnet.checkpoints.network import require
from gcnet.checkpoints.residual_networks import block_places, block_weights, sites, stage_sizes
from gcnet.checkpoints.source import BlockWeights
from gcnet.checkpoints.weight_file import WeightFile
from gcnet.errors import UserError

_BLOCK = "context_block"
_POSITIONS = {"after_conv3": "after_norm", "after_conv2": "after_conv2"}


def context_rules(theirs: str, ours: str) -> list[Rule]:
    """Return the rules of `ContextBlock` in residual blocks.

    Args:
        theirs: pattern of the keys of a residual block, without the dot at its end.
        ours: pattern of ours.
    """
    return block_rules(f"{theirs}.{_BLOCK}", f"{ours}.context", CONTEXT_TABLE)


def context_insertion(weights: WeightFile, prefix: str, ours: str, source: str) -> tuple[dict[str, Any], ...]:
    """Return the arguments of `gcnet.insert` for the context blocks of a checkpoint; none without blocks.

    Args:
        weights: the checkpoint.
        prefix: of the backbone's keys, such as "backbone.".
        ours: prefix of the backbone within our network.
        source: name of the source, for errors.

    Raises:
        UserError: damaged blocks, or blocks at a position that keys and metadata do not tell or gcnet does not have.
    """
    places = block_places(weights, prefix, _BLOCK)
    if not places:
        return ()
    layer, index = places[0]
    first = f"{prefix}layer{layer}.{index}."
    block = block_weights(weights, f"{first}{_BLOCK}.")
    channels, position = _position(weights, first, block, source)
    try:
        converted = convert_block(block, "mmcv_context")
    except UserError as error:
        raise UserError(f"{weights.origin}, {first}{_BLOCK}: {error}") from error
    name, options = SOURCES["mmcv_context"].describe(BlockWeights(block, converted, channels))
    chosen = {key: value for key, value in options.items() if value != _DEFAULTS.get(key)}
    where = sites(places, stage_sizes(weights, prefix), ours)
    return ({"block": name, **chosen, **where, "position": position},)


_DEFAULTS = {"pooling": "attention", "fusion": "add", "norm_eps": 1e-5}


def _position(weights: WeightFile, first: str, block: Mapping[str, Tensor], source: str) -> tuple[int, str]:
    """Channels and position of the blocks: by their channels, or by the configuration where keys do not tell."""
    expand = next((key for key in block if key.endswith("_conv.3.bias")), None)
    if expand is None:
        raise UserError(f"{weights.origin} is damaged: {first}{_BLOCK} has no bias of its last convolution")
    channels = block[expand].numel()
    last = next(name for name in ("bn3", "bn2") if name == "bn2" or f"{first}bn3.bias" in weights.tensors)
    if channels == require(weights, f"{first}{last}.bias", source).numel():
        return channels, "after_norm"
    plugins = backbone_config(weights).get("plugins")
    named = {
        str(plugin.get("position"))
        for plugin in (plugins if isinstance(plugins, list) else [])
        if isinstance(plugin, dict)
    }
    if len(named) != 1:
        raise UserError(
            f"{weights.origin} has context blocks of {channels} channels, and neither keys nor metadata tell whether "
            "they follow the first or the second convolution of a residual block"
        )
    position = named.pop()
    if position not in _POSITIONS:
        raise UserError(
            f"{weights.origin} has context blocks at {position}, and gcnet puts them at {', '.join(_POSITIONS)}"
        )
    return channels, _POSITIONS[position]
