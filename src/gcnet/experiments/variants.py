"""GC without LayerNorm, as the ablation of the bottleneck has it (arXiv 1904.11492, section 5.1.1)."""

from torch import nn

from gcnet.blocks.options import bottleneck_width
from gcnet.framework.block import Branch, ContextBlock
from gcnet.framework.context import AttentionPool
from gcnet.framework.fusion import Add
from gcnet.framework.pointwise import Pointwise, zero
from gcnet.framework.transform import Bottleneck


def build_linear_bottleneck(channels: int, *, ratio: float = 16, dims: int = 2) -> ContextBlock:
    """GC with `W2 W1 c` as its transform; parameters with P = channels/ratio: `2CP + 2C + P + 1`."""
    width = bottleneck_width(channels, ratio)
    return _block(nn.Sequential(Pointwise(channels, width), _expand(width, channels)), channels, dims)


def build_relu_bottleneck(channels: int, *, ratio: float = 16, dims: int = 2) -> ContextBlock:
    """GC with `W2 relu(W1 c)` as its transform; parameters with P = channels/ratio: `2CP + 2C + P + 1`."""
    width = bottleneck_width(channels, ratio)
    return _block(Bottleneck(Pointwise(channels, width), nn.Identity(), _expand(width, channels)), channels, dims)


def _expand(width: int, channels: int) -> Pointwise:
    return Pointwise(width, channels, initialize=zero)


def _block(transform: nn.Module, channels: int, dims: int) -> ContextBlock:
    return ContextBlock(AttentionPool(channels), {"add": Branch(transform, Add())}, channels=channels, dims=dims)
