"""Blocks beyond the paper that attend: disentangled non-local, several slots, and GC without its bottleneck.

All add to the map and start as the identity, bit for bit.
"""

from typing import Literal

from torch import nn

from gcnet.blocks.channel import channel_kernel_size
from gcnet.blocks.options import inner_channels, whole
from gcnet.blocks.paper import add_non_local
from gcnet.errors import UserError
from gcnet.framework.attending import Disentangled, SlotPool, WhitenedAffinity
from gcnet.framework.block import Branch, ContextBlock
from gcnet.framework.channel import ChannelAffine, ChannelFilter, Standardise
from gcnet.framework.context import AttentionPool
from gcnet.framework.fusion import Add
from gcnet.framework.gate import Distribute
from gcnet.framework.pointwise import Pointwise, normal, zero


def build_dnl(
    channels: int,
    *,
    reduction: int = 2,
    temperature: float = 0.05,
    normalisation: Literal["none", "batch"] = "none",
    dims: int = 2,
) -> ContextBlock:
    """Disentangled non-local (arXiv 2006.06668, section 4): a whitened pairwise term and a unary term.

    `y_i = x_i + W_z sum_j (softmax_j((q_i - mean q) . (k_j - mean k) / (t sqrt(C'))) + softmax_j(m_j)) v_j`, C' =
    channels/reduction, t the `temperature` (0.05 as in the code for segmentation), `m_j = w . x_j + b`.
    Parameters: `4CC' + 3C' + 2C + 1`.
    """
    if not temperature > 0:
        raise UserError(f"temperature must be above 0, found {temperature:g}")
    inner = inner_channels(channels, reduction)
    query, key, value = (Pointwise(channels, inner, initialize=normal) for _ in range(3))
    pairwise = WhitenedAffinity(temperature=temperature)
    context = Disentangled(query, key, value, unary=Pointwise(channels, 1), pairwise=pairwise)
    return add_non_local(context, inner, channels=channels, normalisation=normalisation, dims=dims)


def build_gc_slots(channels: int, *, slots: int = 4, dims: int = 2) -> ContextBlock:
    """Global context in several slots: attention pooling by each slot's map, one linear layer, mixed by every query.

    `y_i = x_i + sum_s q_is W c_s`, `c_s = sum_j softmax_j(w_s . x_j) x_j`, `q_i = softmax_s(W_q x_i)`. After efficient
    attention (arXiv 1812.01243), with the map as values and as many slots as wanted; one slot is `snl`.
    Parameters with k slots: `C^2 + 2Ck + C + 2k`.
    """
    count = whole("slots", slots)
    fusion = Distribute(Pointwise(channels, count, initialize=normal))
    branch = Branch(Pointwise(channels, channels, initialize=zero), fusion)
    return ContextBlock(SlotPool(channels, count), {"add": branch}, channels=channels, dims=dims)


def build_gc_eca(channels: int, *, kernel_size: int | None = None, dims: int = 2) -> ContextBlock:
    """Global context without a bottleneck: attention pooling, one filter over the channels, addition.

    `y_i = x_i + w (*) sum_j a_j x_j`, `a = softmax_j(w_k . x_j)`: the context of GC (arXiv 1904.11492), the transform
    of ECA (arXiv 1910.03151); a composition of ours, w zero at the start. `kernel_size` k is as in `eca`.
    Parameters: `C + k + 1`.
    """
    transform = ChannelFilter(channel_kernel_size(channels, kernel_size), initialize=nn.init.zeros_)
    return ContextBlock(AttentionPool(channels), {"add": Branch(transform, Add())}, channels=channels, dims=dims)


def build_gc_affine(channels: int, *, norm_eps: float = 1e-5, dims: int = 2) -> ContextBlock:
    """Global context without a bottleneck: attention pooling, LayerNorm over the channels, addition.

    `y_i = x_i + w_c n_c + b_c`, `n = LN(sum_j a_j x_j)`, `a = softmax_j(w_k . x_j)`: the context of GC (arXiv
    1904.11492), the transform of LCT (arXiv 1909.03834) in one group; a composition of ours, w and b zero at the start.
    Parameters: `3C + 1`.
    """
    transform = nn.Sequential(Standardise(eps=norm_eps), ChannelAffine(channels, weight=0.0, bias=0.0))
    return ContextBlock(AttentionPool(channels), {"add": Branch(transform, Add())}, channels=channels, dims=dims)
