"""Tables of the paper and their rows, and the ablated variants of GC."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gcnet.blocks.options import bottleneck_width
from gcnet.experiments.published import PublishedNetwork, PublishedResult
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


@dataclass(frozen=True)
class TableRow:
    """One network of a table.

    Args:
        label: the network's name in the paper.
        model: its name for `create_model`.
        options: further arguments of `create_model`.
        published: results in the source, with the scores in the order of the table; None if no source is known.
    """

    label: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    published: PublishedNetwork | None = None

    @property
    def published_values(self) -> tuple[PublishedResult, ...]:
        """All published values of the row."""
        if self.published is None:
            return ()
        counts = (self.published.parameters, self.published.multiply_adds)
        return *(value for value in counts if value is not None), *self.published.scores


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper.

    Args:
        title: subject of the comparison, and the data set.
        scores: names of the metrics, in percent.
        size: height and width in pixels of the image for which multiply-adds are counted.
        rows: the networks.
        notes: reasons for differences between counted and published costs, a sentence each.
    """

    title: str
    scores: tuple[str, ...]
    size: tuple[int, int]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()
