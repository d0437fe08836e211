"""ResNets and ResNeXts in checkpoints: name, stages, and the places of context blocks, from keys and shapes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gcnet.checkpoints.key_table import Rule
from gcnet.checkpoints.network import require
from gcnet.checkpoints.weight_file import WeightFile
from gcnet.errors import UserError, printable

_DEPTHS = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
_GROUPED = {(128, 4): "resnext{}_32x4d", (256, 8): "resnext{}_32x8d", (256, 4): "resnext{}_64x4d"}
_WIDE = (128, 128)

_LAYERS = ("conv1", "conv2", "conv3", "bn1", "bn2", "bn3", "downsample.0", "downsample.1")
_PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_BODY_KEYS = (
    *("conv1.weight", *(f"bn1.{part}" for part in _PARTS)),
    *(f"layer#.#.{layer}.{part}" for layer in _LAYERS for part in _PARTS),
)

Places = Sequence[tuple[int, int]]
"""Residual blocks: number of the layer, and index in it."""


def residual_rules(theirs: str, ours: str) -> list[Rule]:
    """Return the rules of a ResNet without its classifier, whose layers both libraries call by the same names.

    Args:
        theirs: prefix of the other library's keys.
        ours: prefix of our keys.
    """
    return [Rule(f"{theirs}{key}", f"{ours}{key}") for key in _BODY_KEYS]


def residual_network(weights: WeightFile, prefix: str, source: str, conv: str = "") -> str:
    """Return the name of the ResNet or ResNeXt of a checkpoint, such as "resnext101_32x4d".

    Args:
        weights: the checkpoint.
        prefix: of the network's keys, such as "backbone.".
        source: name of the source, for errors.
        conv: name of the convolution within each layer, with a dot at its end, where the layer has a norm beside it.

    Raises:
        UserError: no such network.
    """
    counts = stage_sizes(weights, prefix)
    first = f"{prefix}layer1.0."
    bottleneck = any(key.startswith(f"{first}conv3.") for key in weights.tensors)
    depth = _DEPTHS.get((bottleneck, tuple(counts.values())))
    if not counts:
        raise UserError(
            f"{weights.origin} is no checkpoint of {source}: none of its keys begins with {printable(prefix)}layer1."
        )
    if depth is None:
        kind = "bottlenecks" if bottleneck else "blocks of two convolutions"
        known = [str(list(sizes)) for deep, sizes in _DEPTHS if deep == bottleneck]
        raise UserError(
            f"{weights.origin} is a checkpoint of {source} whose stages have {list(counts.values())} {kind}, which is "
            f"no ResNet of gcnet: their sizes must be {' or '.join(known)}"
        )
    shape = tuple(require(weights, f"{first}conv2.{conv}weight", source).shape[:2])
    if not bottleneck or shape == (64, 64):
        return f"resnet{depth}"
    if shape == _WIDE:
        return f"wide_resnet{depth}_2"
    return _GROUPED.get((shape[0], shape[1]), "resnet{}").format(depth)


def stage_sizes(weights: WeightFile, prefix: str) -> dict[int, int]:
    """Return the number of residual blocks of each stage, by its number in `layer1` to `layer4`.

    Args:
        weights: the checkpoint.
        prefix: of the network's keys.
    """
    pattern = re.compile(re.escape(prefix) + r"layer(\d+)\.(\d+)\.")
    places = {(int(match[1]), int(match[2])) for key in weights.tensors if (match := pattern.match(key))}
    return {layer: sum(1 for other, _ in places if other == layer) for layer in sorted({layer for layer, _ in places})}


def block_places(weights: WeightFile, prefix: str, name: str) -> list[tuple[int, int]]:
    """Return the residual blocks that have a child `name`.

    Args:
        weights: the checkpoint.
        prefix: of the network's keys.
        name: of the child.
    """
    pattern = re.compile(re.escape(prefix) + rf"layer(\d+)\.(\d+)\.{re.escape(name)}\.")
    return sorted({(int(match[1]), int(match[2])) for key in weights.tensors if (match := pattern.match(key))})


def block_weights(weights: WeightFile, prefix: str) -> dict[str, Any]:
    """Return the tensors under `prefix`, by the rest of their keys.

    Args:
        weights: the checkpoint.
        prefix: of the block, with a dot at its end.
    """
    return {key.removeprefix(prefix): value for key, value in weights.tensors.items() if key.startswith(prefix)}


def sites(places: Places, sizes: Mapping[int, int], ours: str) -> dict[str, Any]:
    """Return the arguments of `gcnet.insert` for residual blocks: `stages` if they are whole stages, else `at`.

    Args:
        places: the residual blocks.
        sizes: number of residual blocks of each layer.
        ours: prefix of the network within ours, such as "backbone.body.".
    """
    layers = sorted({layer for layer, _ in places})
    if all((layer, index) in set(places) for layer in layers for index in range(sizes[layer])):
        return {"stages": tuple(layer + 1 for layer in layers)}
    return {"at": tuple(f"{ours}layer{layer}.{index}" for layer, index in places)}
