"""The named blocks: each a composition of the framework's parts with its published values, in one dict."""

import inspect
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import nn

from gcnet.errors import UserError, nearest, unknown
from gcnet.framework.block import Branch, ContextBlock
from gcnet.framework.context import (
    Affinity,
    AttentionPool,
    AveragePool,
    ConcatenationAffinity,
    DotProductAffinity,
    NonLocal,
    SoftmaxAffinity,
    SubSample,
)
from gcnet.framework.fusion import Add, Scale
from gcnet.framework.pointwise import Pointwise, normal, zero
from gcnet.framework.transform import BatchNorm, Bottleneck, ChannelLayerNorm

Builder = Callable[..., nn.Module]

_FUSIONS = {"scale": Scale, "add": Add}


def build_gc(
    channels: int,
    *,
    ratio: float = 16,
    pooling: Literal["attention", "average"] = "attention",
    fusion: Literal["add", "scale", "both"] = "add",
    norm_eps: float = 1e-5,
    dims: int = 2,
) -> ContextBlock:
    """Global context (arXiv 1904.11492, section 4.3): attention pooling, bottleneck with LayerNorm, addition.

    `y_i = x_i + W2 relu(LN(W1 sum_j a_j x_j))`, `a = softmax_j(w_k . x_j)`. With `fusion="both"` the scale acts first.
    Parameters for attention and addition, with P = channels/ratio: `2CP + 2C + 3P + 1`.
    """
    width = _width(channels, ratio)
    if width == 1:
        raise UserError(
            f"ratio must leave at least 2 channels, since LayerNorm over one is constant: {channels} channels / ratio "
            f"{ratio:g} leave 1; give a ratio of at most {channels / 2:g}"
        )
    if width < 4:
        warnings.warn(
            f"LayerNorm over {width} channels keeps little of the context ({channels} channels, ratio {ratio:g}); "
            f"a ratio of {channels / 4:g} or less keeps at least 4",
            stacklevel=3,
        )
    names = _choose("fusion", fusion, {"add": ("add",), "scale": ("scale",), "both": ("scale", "add")})
    context = _choose("pooling", pooling, {"attention": partial(AttentionPool, channels), "average": AveragePool})()

    def branch(name: str) -> Branch:
        expand = Pointwise(width, channels, initialize=zero)
        return Branch(
            Bottleneck(Pointwise(channels, width), ChannelLayerNorm(width, norm_eps), expand), _FUSIONS[name]()
        )

    return ContextBlock(context, {name: branch(name) for name in names}, channels=channels, dims=dims)


def build_snl(channels: int, *, dims: int = 2) -> ContextBlock:
    """Simplified non-local (arXiv 1904.11492, eq. 4): attention pooling, one linear layer, addition.

    `y_i = x_i + W_v sum_j a_j x_j`, `a = softmax_j(w_k . x_j)`. Parameters: `C^2 + 2C + 1`.
    """
    transform = Pointwise(channels, channels, initialize=zero)
    return ContextBlock(AttentionPool(channels), {"add": Branch(transform, Add())}, channels=channels, dims=dims)


def build_se(channels: int, *, ratio: float = 16, dims: int = 2) -> ContextBlock:
    """Squeeze-and-excitation (arXiv 1709.01507): average pooling, bottleneck without a norm, sigmoid scale.

    `y_i = x_i * sigmoid(W2 relu(W1 mean_j x_j))`. Parameters with P = channels/ratio: `2CP + P + C`.
    """
    width = _width(channels, ratio)
    transform = Bottleneck(Pointwise(channels, width), nn.Identity(), Pointwise(width, channels))
    return ContextBlock(AveragePool(), {"scale": Branch(transform, Scale())}, channels=channels, dims=dims)


def build_nl_gaussian(
    channels: int,
    *,
    reduction: int = 2,
    sub_sample: bool = False,
    normalisation: Literal["none", "batch"] = "none",
    dims: int = 2,
) -> ContextBlock:
    """Non-local, Gaussian (arXiv 1711.07971, eq. 2): `y_i = x_i + W_z sum_j softmax_j(x_i . x_j) W_v x_j`.

    Parameters with C' = channels/reduction: `2CC' + C' + C`.
    """
    inner = _inner(channels, reduction)
    context = NonLocal(
        nn.Identity(),
        nn.Identity(),
        Pointwise(channels, inner, initialize=normal),
        affinity=SoftmaxAffinity(scaled=False),
        sub_sample=SubSample() if sub_sample else nn.Identity(),
    )
    return _non_local_block(context, inner, channels=channels, normalisation=normalisation, dims=dims)


def build_nl_embedded_gaussian(
    channels: int,
    *,
    reduction: int = 2,
    sub_sample: bool = False,
    use_scale: bool = True,
    normalisation: Literal["none", "batch"] = "none",
    dims: int = 2,
) -> ContextBlock:
    """Non-local, embedded Gaussian (arXiv 1711.07971, eq. 3): `y_i = x_i + W_z sum_j softmax_j(q_i . k_j) v_j`.

    With `use_scale` the products are divided by sqrt(C'), C' = channels/reduction. Parameters: `4CC' + 3C' + C`.
    """
    affinity = SoftmaxAffinity(scaled=use_scale)
    return _embedded_non_local(affinity, channels, reduction, sub_sample, normalisation, dims)


def build_nl_dot_product(
    channels: int,
    *,
    reduction: int = 2,
    sub_sample: bool = False,
    normalisation: Literal["none", "batch"] = "none",
    dims: int = 2,
) -> ContextBlock:
    """Non-local, dot product (arXiv 1711.07971, eq. 4): `y_i = x_i + W_z sum_j (q_i . k_j / K) v_j` over K keys.

    Parameters with C' = channels/reduction: `4CC' + 3C' + C`.
    """
    return _embedded_non_local(DotProductAffinity(), channels, reduction, sub_sample, normalisation, dims)


def build_nl_concatenation(
    channels: int,
    *,
    reduction: int = 2,
    sub_sample: bool = False,
    normalisation: Literal["none", "batch"] = "none",
    dims: int = 2,
) -> ContextBlock:
    """Non-local, concatenation (arXiv 1711.07971, eq. 5): `y_i = x_i + W_z sum_j (relu(w . [q_i; k_j]) / K) v_j`.

    Parameters with C' = channels/reduction: `4CC' + 5C' + C`.
    """
    affinity = ConcatenationAffinity(_inner(channels, reduction))
    return _embedded_non_local(affinity, channels, reduction, sub_sample, normalisation, dims)


BLOCKS: dict[str, Builder] = {
    "gc": build_gc,
    "snl": build_snl,
    "se": build_se,
    "nl_gaussian": build_nl_gaussian,
    "nl_embedded_gaussian": build_nl_embedded_gaussian,
    "nl_dot_product": build_nl_dot_product,
    "nl_concatenation": build_nl_concatenation,
}


def list_blocks() -> list[str]:
    """The names that `build_block` knows."""
    return list(BLOCKS)


def find_builder(block: str | Builder) -> Builder:
    """The builder of a named block; a builder of the user's own is returned as it is."""
    if not isinstance(block, str):
        return block
    if block not in BLOCKS:
        raise unknown("block", block, BLOCKS)
    return BLOCKS[block]


def block_options(block: str | Builder) -> tuple[str, ...]:
    """The options that the builder of a block takes beyond `channels` and `dims`."""
    parameters = list(inspect.signature(find_builder(block)).parameters.values())[1:]
    return tuple(
        parameter.name
        for parameter in parameters
        if parameter.name != "dims" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    )


def check_options(block: str | Builder, options: dict[str, Any]) -> None:
    """Raise UserError for an option that the block's builder does not take, listing those it does."""
    parameters = inspect.signature(find_builder(block)).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return  # A builder of the user's own that takes any option.
    valid = block_options(block)
    name = block if isinstance(block, str) else getattr(block, "__name__", repr(block))
    for option in options:
        if option not in valid:
            listing = ", ".join(valid) or "none"
            proposal = nearest(option, valid) or ";"
            raise UserError(f'block "{name}" takes no option "{option}"{proposal} its options: {listing}')


def build_block(
    name: str | Builder, *, channels: int, ratio: float | None = None, dims: int = 2, **options: Any
) -> nn.Module:
    """Build a block by name, or with a builder of your own, `channels -> module`.

    Args:
        name: one of `list_blocks()`, or a builder.
        channels: C of the maps, `(N, C, *S)`.
        ratio: the paper's r: the bottleneck has channels/r channels; None for the block's own default (16).
        dims: spatial axes of the maps: 1, 2 or 3; a builder of your own is given it if it takes it.
        options: the block's further options, as in its builder's docstring.

    Raises:
        UserError: unknown name or option, or a value that the block refuses.
    """
    if channels < 1:
        raise UserError(f"channels must be at least 1, found {channels}")
    if dims not in (1, 2, 3):
        raise UserError(f"dims must be 1, 2 or 3 spatial axes, found {dims}")
    if ratio is not None:
        options["ratio"] = ratio
    check_options(name, options)
    builder = find_builder(name)
    if "dims" in inspect.signature(builder).parameters:
        options["dims"] = dims
    return builder(channels, **options)


def _embedded_non_local(
    affinity: Affinity, channels: int, reduction: int, sub_sample: bool, normalisation: str, dims: int
) -> ContextBlock:
    inner = _inner(channels, reduction)
    context = NonLocal(
        Pointwise(channels, inner, initialize=normal),
        Pointwise(channels, inner, initialize=normal),
        Pointwise(channels, inner, initialize=normal),
        affinity=affinity,
        sub_sample=SubSample() if sub_sample else nn.Identity(),
    )
    return _non_local_block(context, inner, channels=channels, normalisation=normalisation, dims=dims)


def _non_local_block(context: NonLocal, inner: int, *, channels: int, normalisation: str, dims: int) -> ContextBlock:
    """Add W_z. The start is the identity: W_z is zero or, with batch normalisation, gamma is, and W_z is not."""

    def plain() -> nn.Module:
        return Pointwise(inner, channels, initialize=zero)

    def normalised() -> nn.Module:
        return nn.Sequential(Pointwise(inner, channels), BatchNorm(channels))

    transform = _choose("normalisation", normalisation, {"none": plain, "batch": normalised})()
    return ContextBlock(context, {"add": Branch(transform, Add())}, channels=channels, dims=dims)


def _width(channels: int, ratio: float) -> int:
    """Channels of the bottleneck: C/r, rounded down (the tolerance undoes the rounding of an inexact ratio)."""
    if not ratio > 0:
        raise UserError(f"ratio must be above 0, found {ratio:g}")
    width = math.floor(channels / ratio + 1e-9)
    if width < 1:
        raise UserError(f"ratio must be at most the channels: {channels} channels / ratio {ratio:g} leave none")
    return width


def _inner(channels: int, reduction: int) -> int:
    if reduction < 1 or reduction != int(reduction):
        raise UserError(f"reduction must be a whole number from 1 up, found {reduction}")
    return max(channels // int(reduction), 1)


def _choose(option: str, value: str, choices: dict[str, Any]) -> Any:
    if value not in list(choices):
        raise unknown(option, str(value), choices)
    return choices[value]
