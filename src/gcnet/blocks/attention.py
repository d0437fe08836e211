"""Attention blocks beyond the paper: disentangled non-local, slots, and GC without its bottleneck.

All add to the map, and a new block is exactly the identity.
"""

from typing import Literal

from torch import nn

from gcnet.blocks.channel import KERNEL_SIZE, channel_kernel_size, filter_flops
from gcnet.blocks.non_local import NORMALIZATION, add_non_local, embedding_flops
from gcnet.blocks.options import check_eps, check_integer, inner_channels
from gcnet.blocks.spec import NORM_EPS, ONE_BLOCK, REDUCTION, BlockShape, BlockSpec
from gcnet.errors import UserError
from gcnet.framework.attention_contexts import Disentangled, SlotPool, WhitenedAffinity
from gcnet.framework.block import Branch, ContextBlock
from gcnet.framework.channel_transforms import ChannelAffine, ChannelFilter, Standardize
from gcnet.framework.context import AttentionPool
from gcnet.framework.fusion import Add, Distribute
from gcnet.framework.pointwise import Pointwise, normal, zero


def build_dnl(
    channels: int,
    *,
    reduction: int = 2,
    temperature: float = 0.05,
    normalization: Literal["none", "batch"] = "none",
    dims: int = 2,
) -> ContextBlock:
    """Disentangled non-local: a whitened pairwise term and a unary term.

    `y_i = x_i + W_z sum_j (softmax_j((q_i - mean q) . (k_j - mean k) / (t sqrt(C'))) + softmax_j(m_j)) v_j`, `m_j = w .
    x_j + b`. Parameters: `4CC' + 3C' + 2C + 1`.

    Args:
        channels: C of the maps.
        reduction: the embeddings have C' = channels/reduction channels.
        temperature: t, above 0; the default is from the authors' segmentation code.
        normalization: "none", or "batch" for batch norm after W_z.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Raises:
        UserError: an invalid value, or one that does not fit `channels`.

    Reference:
        arXiv 2006.06668, section 4.
    """
    if not temperature > 0:
        raise UserError(f"`temperature` must be above 0, found {temperature:g}")
    inner = inner_channels(channels, reduction)
    query, key, value = (Pointwise(channels, inner, initialize=normal) for _ in range(3))
    pairwise = WhitenedAffinity(temperature=temperature)
    context = Disentangled(query, key, value, unary=Pointwise(channels, 1), pairwise=pairwise)
    return add_non_local(context, inner, channels=channels, normalization=normalization, dims=dims)


def build_gc_slots(channels: int, *, slots: int = 4, dims: int = 2) -> ContextBlock:
    """Global context in slots: attention pooling per slot, one linear layer, mixed by every query.

    `y_i = x_i + sum_s q_is W c_s`, `c_s = sum_j softmax_j(w_s . x_j) x_j`, `q_i = softmax_s(W_q x_i)`. One slot is
    `snl`. Parameters with k slots: `C^2 + 2Ck + C + 2k`.

    Args:
        channels: C of the maps.
        slots: k, the number of attention maps and contexts, at least 1.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Raises:
        UserError: an invalid value, or one that does not fit `channels`.

    Reference:
        After efficient attention, arXiv 1812.01243, with the map as values.
    """
    count = check_integer("slots", slots)
    fusion = Distribute(Pointwise(channels, count, initialize=normal))
    branch = Branch(Pointwise(channels, channels, initialize=zero), fusion)
    return ContextBlock(SlotPool(channels, count), {"add": branch}, channels=channels, dims=dims)


def build_gc_eca(channels: int, *, kernel_size: int | None = None, dims: int = 2) -> ContextBlock:
    """Global context without a bottleneck: attention pooling, one filter over the channels, addition.

    `y_i = x_i + w (*) sum_j a_j x_j`, `a = softmax_j(w_k . x_j)`, w initially zero. Parameters: `C + k + 1`.

    Args:
        channels: C of the maps.
        kernel_size: k, odd; None for ECA's formula (see `build_eca`).
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Raises:
        UserError: an invalid value, or one that does not fit `channels`.

    Reference:
        The context of GC (arXiv 1904.11492) and the transform of ECA (arXiv 1910.03151); a composition of ours.
    """
    transform = ChannelFilter(channel_kernel_size(channels, kernel_size), initialize=nn.init.zeros_)
    return ContextBlock(AttentionPool(channels), {"add": Branch(transform, Add())}, channels=channels, dims=dims)


def build_gc_affine(channels: int, *, norm_eps: float = 1e-5, dims: int = 2) -> ContextBlock:
    """Global context without a bottleneck: attention pooling, LayerNorm over the channels, addition.

    `y_i = x_i + w_c n_c + b_c`, `n = LN(sum_j a_j x_j)`, `a = softmax_j(w_k . x_j)`, w and b initially zero.
    Parameters: `3C + 1`.

    Args:
        channels: C of the maps.
        norm_eps: added to the variance in LayerNorm, 0 or more.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Raises:
        UserError: an invalid value, or one that does not fit `channels`.

    Reference:
        The context of GC (arXiv 1904.11492) and the transform of LCT (arXiv 1909.03834) in one group; a composition of
        ours.
    """
    check_eps(norm_eps)
    transform = nn.Sequential(Standardize(eps=norm_eps), ChannelAffine(channels, weight=0.0, bias=0.0))
    return ContextBlock(AttentionPool(channels), {"add": Branch(transform, Add())}, channels=channels, dims=dims)


def _dnl_flops(shape: BlockShape) -> int:
    """8 P C D + 4 P^2 D + 2 P C + 2 P D, the last two of the unary term."""
    pairwise = 4 * shape.positions**2 * shape.hidden
    return embedding_flops(shape) + pairwise + 2 * shape.positions * (shape.channels + shape.hidden)


def _slots_flops(shape: BlockShape, *, slots: int = 4) -> int:
    """8 k P C + 2 k C^2 with k slots."""
    return slots * (8 * shape.positions * shape.channels + 2 * shape.channels**2)


def _attention_flops(shape: BlockShape) -> int:
    """4 P C."""
    return 4 * shape.positions * shape.channels


def _gc_eca_flops(shape: BlockShape, *, kernel_size: int | None = None) -> int:
    """4 P C + 2 C k."""
    return _attention_flops(shape) + filter_flops(shape, kernel_size=kernel_size)


SPECS = {
    "dnl": BlockSpec(
        build_dnl,
        context="per query, whitened + shared",
        transform="linear",
        fusion="add",
        source="DNL, arXiv 2006.06668",
        flops=_dnl_flops,
        options={
            "reduction": REDUCTION,
            "temperature": "divisor of the pairwise products, above 0",
            "normalization": NORMALIZATION,
        },
        placement=ONE_BLOCK,
    ),
    "gc_slots": BlockSpec(
        build_gc_slots,
        context="attention pooling into slots",
        transform="linear",
        fusion="add, by query",
        source="after arXiv 1812.01243",
        flops=_slots_flops,
        options={"slots": "number of attention maps and contexts, mixed by each query"},
    ),
    "gc_eca": BlockSpec(
        build_gc_eca,
        context="attention pooling",
        transform="filter over channels",
        fusion="add",
        source="ours, of GC and ECA",
        flops=_gc_eca_flops,
        options={"kernel_size": KERNEL_SIZE},
    ),
    "gc_affine": BlockSpec(
        build_gc_affine,
        context="attention pooling",
        transform="LayerNorm over channels",
        fusion="add",
        source="ours, of GC and LCT",
        flops=_attention_flops,
        options={"norm_eps": NORM_EPS},
    ),
}
