"""Transforms of the pooled vectors of `h` that equal transforms of the context of `y_j = W h_j + b`."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.framework.narrow_contexts import NarrowContext
from gcnet.framework.pointwise import Pointwise
from gcnet.framework.transform import BatchStandardization, Bottleneck, ChannelLayerNorm

_MOST_GROUPS = 4  # with more, W comes before the bottleneck, since R W would be as large as R and W


class Expansion(nn.Module):
    """`c_g = W_g p_g + bias_g`: the context of `y` from the pooled vectors of `h`.

    Args:
        weight: (G, C / G, K).
        bias: (C,).
    """

    def __init__(self, weight: Float[Tensor, "g c k"], bias: Float[Tensor, " c_all"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.groups = len(weight)

    def forward(self, pooled: Float[Tensor, "n gk"]) -> Float[Tensor, "n c_all 1 1"]:
        if self.groups == 1:
            context = F.linear(pooled, self.weight[0], self.bias)
        else:
            groups = pooled.unflatten(1, (self.groups, -1)).transpose(0, 1)  # (G, N, K)
            context = torch.bmm(groups, self.weight.transpose(1, 2)).transpose(0, 1).flatten(1) + self.bias
        return context[..., None, None]


class VectorBottleneck(nn.Module):
    """`Bottleneck` of one vector for each sample, in as few operations as possible.

    Args:
        reduce: the first layer.
        norm: of the hidden vector.
        expand: the last layer.
    """

    def __init__(self, reduce: Pointwise, norm: nn.Module, expand: Pointwise) -> None:
        super().__init__()
        self.reduce, self.norm, self.expand = reduce, norm, expand
        if isinstance(norm, ChannelLayerNorm):  # which moves the axes of maps
            self.norm = nn.LayerNorm(list(norm.normalized_shape), norm.eps).to(norm.weight)
            self.norm.load_state_dict(norm.state_dict())

    def forward(self, pooled: Float[Tensor, "n gk"]) -> Float[Tensor, "n c"]:
        hidden = self.norm(F.linear(pooled, self.reduce.weight, self.reduce.bias))
        return F.linear(F.relu(hidden), self.expand.weight, self.expand.bias)


def narrow_transform(transform: nn.Module, context: NarrowContext) -> nn.Module:
    """Return a transform of the pooled vectors (N, G K) of `h` that equals `transform` of the context of `y`.

    Args:
        transform: of the context of `y`.
        context: the context of `y`, from `h`.
    """
    if len(context.weight) <= _MOST_GROUPS:
        if type(transform) is Pointwise:
            return _composed(transform, context)
        if isinstance(transform, Bottleneck) and _is_plain(transform):
            return VectorBottleneck(_composed(transform.reduce, context), transform.norm, transform.expand)
    return nn.Sequential(Expansion(context.weight, context.bias), transform)


def _is_plain(transform: Bottleneck) -> bool:
    """Whether no subclass, other layer or norm makes the transform anything else than `VectorBottleneck`."""
    if type(transform) is not Bottleneck or not type(transform.reduce) is type(transform.expand) is Pointwise:
        return False
    return type(transform.norm) in (ChannelLayerNorm, BatchStandardization, nn.Identity)


@torch.no_grad()
def _composed(layer: Pointwise, context: NarrowContext) -> Pointwise:
    """`R (W p + b) + r` as one layer on the pooled vectors of all groups: the columns `R_g W_g` side by side."""
    groups, _, narrow = context.weight.shape
    outer = layer.weight.double()
    columns = torch.bmm(outer.unflatten(1, (groups, -1)).transpose(0, 1), context.weight.double())  # (G, r, K)
    composed = Pointwise(groups * narrow, len(outer)).to(layer.weight)
    composed.weight.copy_(columns.transpose(0, 1).flatten(1))
    composed.bias.copy_(outer @ context.bias.double() + layer.bias.double())
    return composed
