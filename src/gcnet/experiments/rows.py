"""Rows of tables, with published numbers, and the ablated variants of GC."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gcnet.blocks.options import bottleneck_width
from gcnet.framework.block import Branch, ContextBlock
from gcnet.framework.context import AttentionPool
from gcnet.framework.fusion import Add
from gcnet.framework.pointwise import Pointwise, zero
from gcnet.framework.transform import Bottleneck


def build_linear_bottleneck(channels: int, *, ratio: float = 16, dims: int = 2) -> ContextBlock:
    """Build GC with the transform `W2 W1 c`.

    Args:
        channels: C of the maps.
        ratio: the bottleneck has P = C / ratio channels.
        dims: spatial axes, 1 to 3.

    Returns:
        The block, with 2CP + 2C + P + 1 parameters.
    """
    width = bottleneck_width(channels, ratio)
    return _block(nn.Sequential(Pointwise(channels, width), _expand(width, channels)), channels, dims)


def build_relu_bottleneck(channels: int, *, ratio: float = 16, dims: int = 2) -> ContextBlock:
    """Build GC with the transform `W2 relu(W1 c)`.

    Args:
        channels: C of the maps.
        ratio: the bottleneck has P = C / ratio channels.
        dims: spatial axes, 1 to 3.

    Returns:
        The block, with 2CP + 2C + P + 1 parameters.
    """
    width = bottleneck_width(channels, ratio)
    return _block(Bottleneck(Pointwise(channels, width), nn.Identity(), _expand(width, channels)), channels, dims)


def _expand(width: int, channels: int) -> Pointwise:
    return Pointwise(width, channels, initialize=zero)


def _block(transform: nn.Module, channels: int, dims: int) -> ContextBlock:
    return ContextBlock(AttentionPool(channels), {"add": Branch(transform, Add())}, channels=channels, dims=dims)


PAPERS: Mapping[str, str] = {
    "O": "README of github.com/xvjiarui/GCNet, commit 029db54",
    "T1": "Table 1 of GCNet, arXiv 1904.11492",
    "ECA": "table of ECA-Net, arXiv 1910.03151",
    "PVT": "table of PVT, arXiv 2102.12122",
}
"""Where published values are printed, by the mark that stands behind them."""


@dataclass(frozen=True)
class PublishedResult:
    """Published value.

    Attributes:
        value: with the published digits.
        source: key of `PAPERS`.
    """

    value: str
    source: str


@dataclass(frozen=True)
class TableRow:
    """One network of a table.

    Args:
        label: as the paper calls it.
        model: its name for `create_model`.
        options: further arguments of `create_model`.
        parameters: published, in millions.
        multiply_adds: published, in billions; papers print them under the name "FLOPs".
        scores: published, in percent, in the order of the table's.
    """

    label: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    parameters: PublishedResult | None = None
    multiply_adds: PublishedResult | None = None
    scores: tuple[PublishedResult, ...] = ()


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper.

    Args:
        title: what is compared, and on what.
        scores: names of what is measured, in percent.
        size: height and width in pixels of the image that multiply-adds are counted for.
        rows: the networks.
        notes: why what is counted and what was published differ, a sentence each.
    """

    title: str
    scores: tuple[str, ...]
    size: tuple[int, int]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()
