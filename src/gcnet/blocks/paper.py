"""Query-independent blocks of the GCNet paper: global context, simplified non-local and SE."""

import warnings
from functools import partial
from typing import Literal

from torch import nn

from gcnet.blocks.options import bottleneck_width, check_choice, check_divides, check_eps, sigmoid_scale
from gcnet.blocks.spec import EVERY_BLOCK, IDENTITY_INIT, NORM_EPS, RATIO, BlockShape, BlockSpec
from gcnet.errors import UserError
from gcnet.framework.attention_contexts import MultiHeadPool
from gcnet.framework.block import Branch, ContextBlock
from gcnet.framework.context import (
    AttentionPool,
    AveragePool,
)
from gcnet.framework.fusion import Add, Scale
from gcnet.framework.pointwise import Pointwise, zero
from gcnet.framework.transform import Bottleneck, ChannelLayerNorm

_FUSIONS = {"scale": Scale, "add": Add}


def build_gc(
    channels: int,
    *,
    ratio: float = 16,
    pooling: Literal["attention", "average"] = "attention",
    fusion: Literal["add", "scale", "both"] = "add",
    heads: int = 1,
    norm_eps: float = 1e-5,
    dims: int = 2,
) -> ContextBlock:
    """Global context: attention pooling, bottleneck with LayerNorm, addition.

    `y_i = x_i + W2 relu(LN(W1 sum_j a_j x_j))`, `a = softmax_j(w_k . x_j)`. Parameters for attention pooling and
    addition, with h heads: `2CP + C + C/h + 3P + 1`.

    Args:
        channels: C of the maps.
        ratio: reduction ratio r, at least 1: the bottleneck has P = channels/r channels.
        pooling: context model, "attention" or "average".
        fusion: "add", "scale" (sigmoid), or "both", scale first.
        heads: attention maps, each for an equal part of the channels, with w_k shared (MASTER, arXiv 1910.02562).
        norm_eps: added to the variance in LayerNorm, 0 or more.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Raises:
        UserError: an invalid value, or a ratio that leaves one channel.

    Reference:
        GCNet, arXiv 1904.11492, section 4.3.
    """
    check_eps(norm_eps)
    width = bottleneck_width(channels, ratio)
    if width == 1:
        raise UserError(
            f"`ratio` must leave at least 2 channels, as LayerNorm of one is constant: {channels} channels / "
            f"ratio {ratio:g} leave 1; use a ratio of at most {channels / 2:g}"
        )
    if width < 4:
        warnings.warn(
            f"LayerNorm over {width} channels keeps little of the context ({channels} channels, ratio {ratio:g}); "
            f"a ratio of {channels / 4:g} or less keeps at least 4",
            stacklevel=3,
        )
    names = check_choice("fusion", fusion, {"add": ("add",), "scale": ("scale",), "both": ("scale", "add")})
    context = _pooling(pooling, channels, heads)

    def branch(name: str) -> Branch:
        expand = Pointwise(width, channels, initialize=zero)
        return Branch(
            Bottleneck(Pointwise(channels, width), ChannelLayerNorm(width, norm_eps), expand), _FUSIONS[name]()
        )

    return ContextBlock(context, {name: branch(name) for name in names}, channels=channels, dims=dims)


def _pooling(pooling: str, channels: int, heads: int) -> nn.Module:
    build = check_choice("pooling", pooling, {"attention": partial(AttentionPool, channels), "average": AveragePool})
    if check_divides("heads", heads, channels) == 1:
        return build()
    if pooling == "average":
        raise UserError(f"heads needs attention pooling, found heads={heads} with average pooling")
    return MultiHeadPool(channels, int(heads))


def build_snl(channels: int, *, dims: int = 2) -> ContextBlock:
    """Simplified non-local: attention pooling, one linear layer, addition.

    `y_i = x_i + W_v sum_j a_j x_j`, `a = softmax_j(w_k . x_j)`. Parameters: `C^2 + 2C + 1`.

    Args:
        channels: C of the maps.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Reference:
        GCNet, arXiv 1904.11492, eq. 4.
    """
    transform = Pointwise(channels, channels, initialize=zero)
    return ContextBlock(AttentionPool(channels), {"add": Branch(transform, Add())}, channels=channels, dims=dims)


def build_se(channels: int, *, ratio: float = 16, identity_init: bool = False, dims: int = 2) -> ContextBlock:
    """Squeeze-and-excitation: average pooling, bottleneck, sigmoid scale.

    `y_i = x_i * sigmoid(W2 relu(W1 mean_j x_j))`. Parameters: `2CP + P + C`.

    Args:
        channels: C of the maps.
        ratio: reduction ratio r, at least 1: the bottleneck has P = channels/r channels.
        identity_init: initialize W2 to 0 and double the gate, so that the new block is the identity.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Raises:
        UserError: an invalid value, or one that does not fit `channels`.

    Reference:
        SENet, arXiv 1709.01507.
    """
    branch = Branch(excitation(channels, ratio, identity_init), sigmoid_scale(identity_init))
    return ContextBlock(AveragePool(), {"scale": branch}, channels=channels, dims=dims)


def excitation(channels: int, ratio: float, identity_init: bool) -> Bottleneck:
    """Return the bottleneck of SE, `W2 relu(W1 c)`.

    Args:
        channels: C of the maps.
        ratio: reduction ratio r, at least 1: the bottleneck has P = channels/r channels.
        identity_init: initialize W2 to 0.
    """
    width = bottleneck_width(channels, ratio)
    expand = Pointwise(width, channels, initialize=zero if identity_init else None)
    return Bottleneck(Pointwise(channels, width), nn.Identity(), expand)


def _gc_flops(shape: BlockShape, *, pooling: str = "attention", fusion: str = "add") -> int:
    """4 P C for attention pooling, and 4 C D for each branch."""
    pooled = 4 * shape.positions * shape.channels if pooling == "attention" else 0
    return pooled + (2 if fusion == "both" else 1) * 4 * shape.channels * shape.hidden


def _snl_flops(shape: BlockShape) -> int:
    """4 P C + 2 C^2."""
    return 4 * shape.positions * shape.channels + 2 * shape.channels**2


def excitation_flops(shape: BlockShape) -> int:
    """Return the FLOPs of the bottleneck of SE for `shape`, 4 C D."""
    return 4 * shape.channels * shape.hidden


SPECS = {
    "gc": BlockSpec(
        build_gc,
        context="attention pooling",
        transform="bottleneck with LayerNorm",
        fusion="add",
        source="GCNet, arXiv 1904.11492",
        flops=_gc_flops,
        options={
            "ratio": RATIO,
            "pooling": "context model: attention, or average",
            "fusion": "add, scale, or both (scale first)",
            "heads": "number of attention maps, each for an equal group of channels",
            "norm_eps": NORM_EPS,
        },
    ),
    "snl": BlockSpec(
        build_snl,
        context="attention pooling",
        transform="linear",
        fusion="add",
        source="GCNet, arXiv 1904.11492, eq. 4",
        flops=_snl_flops,
    ),
    "se": BlockSpec(
        build_se,
        context="average pooling",
        transform="bottleneck",
        fusion="scale",
        source="SENet, arXiv 1709.01507",
        flops=excitation_flops,
        options={"ratio": RATIO, "identity_init": IDENTITY_INIT},
        placement=EVERY_BLOCK,
    ),
}
