"""Transforms of the pooled vectors of `h` that equal transforms of the context of `y_j = W h_j + b`."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.framework.narrow_contexts import NarrowContext
from gcnet.framework.pointwise import Pointwise
from gcnet.framework.transform import BatchStandardization, Bottleneck, ChannelLayerNorm

_MOST_GROUPS = 4  # with more, W comes before the bottleneck, since R W would be as large as R and W


class VectorLinear(nn.Module):
    """`W p + b` of one vector for each sample.

    A matrix with more rows than columns is stored by columns: products with few vectors read it up to twice as fast.

    Args:
        weight: W.
        bias: b.
    """

    def __init__(self, weight: Float[Tensor, "c k"], bias: Float[Tensor, " c"]) -> None:
        super().__init__()
        rows, columns = weight.shape
        stored = weight.detach().t().contiguous().t() if rows > columns else weight.detach()
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.bias = nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, vectors: Float[Tensor, "n k"]) -> Float[Tensor, "n c"]:
        return torch.addmm(self.bias, vectors, self.weight.t())


class GroupExpansion(nn.Module):
    """`c_g = W_g p_g + bias_g`: the context of `y` from the pooled vectors of `h`.

    Args:
        weight: (G, C / G, K).
        bias: (C,).
    """

    def __init__(self, weight: Float[Tensor, "g c k"], bias: Float[Tensor, " c_all"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, pooled: Float[Tensor, "n gk"]) -> Float[Tensor, "n c_all"]:
        groups = pooled.unflatten(1, (len(self.weight), -1)).transpose(0, 1)  # (G, N, K)
        return torch.bmm(groups, self.weight.transpose(1, 2)).transpose(0, 1).flatten(1) + self.bias


class OfContext(nn.Module):
    """A transform of the context (N, C, 1, 1) that a layer computes from the pooled vectors.

    Args:
        expansion: pooled vectors -> context (N, C).
        transform: of the context.
    """

    def __init__(self, expansion: nn.Module, transform: nn.Module) -> None:
        super().__init__()
        self.expansion, self.transform = expansion, transform

    def forward(self, pooled: Float[Tensor, "n gk"]) -> Float[Tensor, "n c 1 1"]:
        return self.transform(self.expansion(pooled)[..., None, None])


class VectorBottleneck(nn.Module):
    """`Bottleneck` of one vector for each sample, in as few operations as possible.

    Args:
        reduce: the first layer.
        norm: of the hidden vector.
        expand: the last layer.
    """

    def __init__(self, reduce: VectorLinear, norm: nn.Module, expand: VectorLinear) -> None:
        super().__init__()
        self.reduce, self.norm, self.expand = reduce, norm, expand
        if isinstance(norm, ChannelLayerNorm):  # which moves the axes of maps
            self.norm = nn.LayerNorm(list(norm.normalized_shape), norm.eps).to(norm.weight)
            self.norm.load_state_dict(norm.state_dict())

    def forward(self, pooled: Float[Tensor, "n gk"]) -> Float[Tensor, "n c"]:
        return self.expand(F.relu(self.norm(self.reduce(pooled))))


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
            expand = VectorLinear(transform.expand.weight, transform.expand.bias)
            return VectorBottleneck(_composed(transform.reduce, context), transform.norm, expand)
    if len(context.weight) == 1:
        return OfContext(VectorLinear(context.weight[0], context.bias), transform)
    return OfContext(GroupExpansion(context.weight, context.bias), transform)


def _is_plain(transform: Bottleneck) -> bool:
    """Whether no subclass, other layer or norm makes the transform anything else than `VectorBottleneck`."""
    if type(transform) is not Bottleneck or not type(transform.reduce) is type(transform.expand) is Pointwise:
        return False
    return type(transform.norm) in (ChannelLayerNorm, BatchStandardization, nn.Identity)


@torch.no_grad()
def _composed(layer: Pointwise, context: NarrowContext) -> VectorLinear:
    """`R (W p + b) + r` as one layer on the pooled vectors of all groups: the columns `R_g W_g` side by side."""
    groups = len(context.weight)
    outer = layer.weight.double()
    columns = torch.bmm(outer.unflatten(1, (groups, -1)).transpose(0, 1), context.weight.double())  # (G, r, K)
    bias = outer @ context.bias.double() + layer.bias.double()
    return VectorLinear(columns.transpose(0, 1).flatten(1).to(layer.weight), bias.to(layer.bias))
