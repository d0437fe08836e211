"""`BlockSpec`: a named block with its builder, description, source, FLOPs, published placement and options."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import nn

Builder = Callable[..., nn.Module]

EVERY_BLOCK: Mapping[str, Any] = MappingProxyType({"stages": (2, 3, 4, 5)})
"""Placement in every residual block of every stage, as of SE (arXiv 1709.01507)."""

ONE_BLOCK: Mapping[str, Any] = MappingProxyType({"stages": (4,), "blocks": (-2,), "position": "after_add"})
"""Placement of a non-local block: once, before the last residual block of c4 (arXiv 1711.07971)."""

RATIO = "reduction ratio r, at least 1: the bottleneck has channels/r channels"
REDUCTION = "the inner maps have channels/reduction channels"
IDENTITY_INIT = "initialize to the identity instead of as published"
NORM_EPS = "added to the variance in LayerNorm"


@dataclass(frozen=True)
class BlockShape:
    """Feature map and inner width of a block, for FLOP formulas.

    Attributes:
        channels: C.
        positions: P, number of positions of the map.
        hidden: D, channels/ratio or channels/reduction.
        key_positions: P', fewer than P where keys and values are sub-sampled.
    """

    channels: int
    positions: int
    hidden: int
    key_positions: int


@dataclass(frozen=True)
class BlockSpec:
    """A named block.

    Attributes:
        build: channels -> block; its keyword arguments are the options of the block.
        context: short description of the context model.
        transform: short description of the transform.
        fusion: short description of the fusion.
        source: reference with arXiv number.
        flops: FLOPs per image (a multiply-add counts as two) of a `BlockShape` and, by name, of the options that change
            them.
        options: help of each option of the builder, without `channels` and `dims`.
        placement: arguments of `gcnet.insert` for the published placement; by default that of GC.
    """

    build: Builder
    context: str
    transform: str
    fusion: str
    source: str
    flops: Callable[..., int]
    options: Mapping[str, str] = field(default_factory=dict)
    placement: Mapping[str, Any] = field(default_factory=dict)


def no_flops(_: BlockShape) -> int:
    """Return 0: element-wise operations, pooling and normalization are not counted."""
    return 0
