"""The four non-local blocks (arXiv 1711.07971), as compared in the GCNet paper."""

from typing import Literal

from torch import nn

from gcnet.blocks.options import check_choice, inner_channels
from gcnet.blocks.spec import ONE_BLOCK, REDUCTION, BlockShape, BlockSpec
from gcnet.framework.block import Branch, ContextBlock
from gcnet.framework.context import (
    Affinity,
    ConcatenationAffinity,
    DotProductAffinity,
    NonLocal,
    SoftmaxAffinity,
    SubSample,
)
from gcnet.framework.fusion import Add
from gcnet.framework.pointwise import Pointwise, normal, zero
from gcnet.framework.transform import BatchStandardization


def build_nl_gaussian(
    channels: int,
    *,
    reduction: int = 2,
    sub_sample: bool = False,
    normalization: Literal["none", "batch"] = "none",
    dims: int = 2,
) -> ContextBlock:
    """Non-local, Gaussian: `y_i = x_i + W_z sum_j softmax_j(x_i . x_j) W_v x_j`.

    Parameters: `2CC' + C' + C`.

    Args:
        channels: C of the maps.
        reduction: the embeddings have C' = channels/reduction channels.
        sub_sample: max-pool keys and values by 2 along each axis.
        normalization: "none", or "batch" for batch norm after W_z.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Raises:
        UserError: an invalid value, or one that does not fit `channels`.

    Reference:
        arXiv 1711.07971, eq. 2.
    """
    inner = inner_channels(channels, reduction)
    context = NonLocal(
        nn.Identity(),
        nn.Identity(),
        Pointwise(channels, inner, initialize=normal),
        affinity=SoftmaxAffinity(scaled=False),
        sub_sample=SubSample() if sub_sample else nn.Identity(),
    )
    return add_non_local(context, inner, channels=channels, normalization=normalization, dims=dims)


def build_nl_embedded_gaussian(
    channels: int,
    *,
    reduction: int = 2,
    sub_sample: bool = False,
    use_scale: bool = True,
    normalization: Literal["none", "batch"] = "none",
    dims: int = 2,
) -> ContextBlock:
    """Non-local, embedded Gaussian: `y_i = x_i + W_z sum_j softmax_j(q_i . k_j) v_j`.

    Parameters: `4CC' + 3C' + C`.

    Args:
        channels: C of the maps.
        reduction: the embeddings have C' = channels/reduction channels.
        sub_sample: max-pool keys and values by 2 along each axis.
        use_scale: divide the products by sqrt(C').
        normalization: "none", or "batch" for batch norm after W_z.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Raises:
        UserError: an invalid value, or one that does not fit `channels`.

    Reference:
        arXiv 1711.07971, eq. 3.
    """
    affinity = SoftmaxAffinity(scaled=use_scale)
    return _embedded_non_local(affinity, channels, reduction, sub_sample, normalization, dims)


def build_nl_dot_product(
    channels: int,
    *,
    reduction: int = 2,
    sub_sample: bool = False,
    normalization: Literal["none", "batch"] = "none",
    dims: int = 2,
) -> ContextBlock:
    """Non-local, dot product: `y_i = x_i + W_z sum_j (q_i . k_j / K) v_j` over K keys.

    Parameters: `4CC' + 3C' + C`.

    Args:
        channels: C of the maps.
        reduction: the embeddings have C' = channels/reduction channels.
        sub_sample: max-pool keys and values by 2 along each axis.
        normalization: "none", or "batch" for batch norm after W_z.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Raises:
        UserError: an invalid value, or one that does not fit `channels`.

    Reference:
        arXiv 1711.07971, eq. 4.
    """
    return _embedded_non_local(DotProductAffinity(), channels, reduction, sub_sample, normalization, dims)


def build_nl_concatenation(
    channels: int,
    *,
    reduction: int = 2,
    sub_sample: bool = False,
    normalization: Literal["none", "batch"] = "none",
    dims: int = 2,
) -> ContextBlock:
    """Non-local, concatenation: `y_i = x_i + W_z sum_j (relu(w . [q_i; k_j]) / K) v_j` over K keys.

    Parameters: `4CC' + 5C' + C`.

    Args:
        channels: C of the maps.
        reduction: the embeddings have C' = channels/reduction channels.
        sub_sample: max-pool keys and values by 2 along each axis.
        normalization: "none", or "batch" for batch norm after W_z.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Raises:
        UserError: an invalid value, or one that does not fit `channels`.

    Reference:
        arXiv 1711.07971, eq. 5.
    """
    affinity = ConcatenationAffinity(inner_channels(channels, reduction))
    return _embedded_non_local(affinity, channels, reduction, sub_sample, normalization, dims)


def _embedded_non_local(
    affinity: Affinity, channels: int, reduction: int, sub_sample: bool, normalization: str, dims: int
) -> ContextBlock:
    inner = inner_channels(channels, reduction)
    context = NonLocal(
        Pointwise(channels, inner, initialize=normal),
        Pointwise(channels, inner, initialize=normal),
        Pointwise(channels, inner, initialize=normal),
        affinity=affinity,
        sub_sample=SubSample() if sub_sample else nn.Identity(),
    )
    return add_non_local(context, inner, channels=channels, normalization=normalization, dims=dims)


def add_non_local(context: nn.Module, inner: int, *, channels: int, normalization: str, dims: int) -> ContextBlock:
    """Build a non-local block: the context, W_z and addition.

    The new block is the identity: W_z is initialized to zero or, with batch norm, gamma.

    Args:
        context: `(N, C, *S) -> (N, C', *S)`.
        inner: C'.
        channels: C of the maps.
        normalization: "none", or "batch" for batch norm after W_z.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.
    """

    def plain() -> nn.Module:
        return Pointwise(inner, channels, initialize=zero)

    def normalized() -> nn.Module:
        return nn.Sequential(Pointwise(inner, channels), BatchStandardization(channels))

    transform = check_choice("normalization", normalization, {"none": plain, "batch": normalized})()
    return ContextBlock(context, {"add": Branch(transform, Add())}, channels=channels, dims=dims)


def embedding_flops(shape: BlockShape) -> int:
    """Return the FLOPs of query, key, value and W_z for `shape`, 8 P C D."""
    return 8 * shape.positions * shape.channels * shape.hidden


def _gaussian_flops(shape: BlockShape) -> int:
    """4 P C D + 4 P P' C: the fused attention takes values as wide as queries."""
    return 4 * shape.positions * shape.channels * (shape.hidden + shape.key_positions)


def _embedded_gaussian_flops(shape: BlockShape) -> int:
    """8 P C D + 4 P P' D."""
    return embedding_flops(shape) + 4 * shape.positions * shape.key_positions * shape.hidden


def _dot_product_flops(shape: BlockShape) -> int:
    """8 P C D + 2 P D^2 + 2 P' D^2, since theta (phi^T g) is the same sum."""
    return embedding_flops(shape) + 2 * (shape.positions + shape.key_positions) * shape.hidden**2


def _concatenation_flops(shape: BlockShape) -> int:
    """8 P C D + 2 P D + 2 P' D: sorting and running sums give the sum over pairs."""
    return embedding_flops(shape) + 2 * (shape.positions + shape.key_positions) * shape.hidden


NORMALIZATION = "none, or batch: batch norm after W_z"


_NON_LOCAL = {
    "reduction": REDUCTION,
    "sub_sample": "max-pool keys and values by 2 along each axis",
    "normalization": NORMALIZATION,
}

SPECS = {
    "nl_gaussian": BlockSpec(
        build_nl_gaussian,
        context="per query, softmax of x_i.x_j",
        transform="linear",
        fusion="add",
        source="NL, arXiv 1711.07971, eq. 2",
        flops=_gaussian_flops,
        options=_NON_LOCAL,
        placement=ONE_BLOCK,
    ),
    "nl_embedded_gaussian": BlockSpec(
        build_nl_embedded_gaussian,
        context="per query, softmax of q_i.k_j",
        transform="linear",
        fusion="add",
        source="NL, arXiv 1711.07971, eq. 3",
        flops=_embedded_gaussian_flops,
        options=_NON_LOCAL | {"use_scale": "divide the products by the square root of the inner channels"},
        placement=ONE_BLOCK,
    ),
    "nl_dot_product": BlockSpec(
        build_nl_dot_product,
        context="per query, q_i.k_j",
        transform="linear",
        fusion="add",
        source="NL, arXiv 1711.07971, eq. 4",
        flops=_dot_product_flops,
        options=_NON_LOCAL,
        placement=ONE_BLOCK,
    ),
    "nl_concatenation": BlockSpec(
        build_nl_concatenation,
        context="per query, relu(w.[q_i;k_j])",
        transform="linear",
        fusion="add",
        source="NL, arXiv 1711.07971, eq. 5",
        flops=_concatenation_flops,
        options=_NON_LOCAL,
        placement=ONE_BLOCK,
    ),
}
