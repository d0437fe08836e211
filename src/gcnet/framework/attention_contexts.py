"""Attention contexts beyond one shared map: per head, into slots, and disentangled."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.framework.context import Affinity, AttentionPool
from gcnet.framework.narrow_contexts import NarrowAttention, NarrowContext, narrow_key
from gcnet.framework.overriding import Overridable
from gcnet.framework.pointwise import Pointwise, kaiming_normal
from gcnet.ops.attention_pool import attention_weights, weighted_sum
from gcnet.ops.pairwise import attention_weights_rows, softmax_aggregate, softmax_weights


class MultiHeadPool(Overridable, nn.Module):
    """Attention pooling of each head's channels by its own attention map, with a key shared by the heads (MASTER).

    `c = [c_1; ...; c_h]`, `c_h = sum_j softmax_j(w . x_hj + b) x_hj`, with x_h the h-th part of the channels (arXiv
    1910.02562, multi-aspect global context).

    Args:
        channels: C of the map.
        heads: number of heads, a divisor of C.
    """

    equivalents = ("narrow",)

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.pool = AttentionPool(channels // heads)

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *one"]:
        return self.pool(self._split(x)).view(*x.shape[:2], *[1] * (x.dim() - 2))

    def attention(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n h *s"]:
        """Return the attention weights of each head over the positions of `x`, summing to one over positions."""
        return self.pool.attention(self._split(x)).view(x.shape[0], self.heads, *x.shape[2:])

    def narrow(self, weight: Float[Tensor, "c k"], bias: Float[Tensor, " c"]) -> NarrowContext:
        """Return the context of `y = weight h + bias` as a function of `h`.

        Args:
            weight: of the convolution.
            bias: of the convolution.
        """
        groups = weight.unflatten(0, (self.heads, -1))
        return NarrowContext(NarrowAttention(narrow_key(self.pool.key.weight, groups)), groups, bias)

    def _split(self, x: Tensor) -> Tensor:
        """(N, C, *S) -> (N heads, C / heads, *S)."""
        return x.reshape(x.shape[0] * self.heads, x.shape[1] // self.heads, *x.shape[2:])

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


class SlotPool(nn.Module):
    """Attention pooling into slots: `c_s = sum_j softmax_j(w_s . x_j + b_s) x_j`, (N, C, slots).

    The pooling half of efficient attention (arXiv 1812.01243, section 3) with the map itself as values; one slot is
    `AttentionPool`. `Distribute` is the other half.

    Args:
        channels: C of the map.
        slots: number of slots.
    """

    def __init__(self, channels: int, slots: int) -> None:
        super().__init__()
        self.key = Pointwise(channels, slots, initialize=kaiming_normal)

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c k"]:
        weights = attention_weights_rows(self.key(x).flatten(2)).to(x.dtype)
        return torch.bmm(weights, x.flatten(2).transpose(1, 2)).transpose(1, 2)

    def attention(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n k *s"]:
        """Return the attention weights of each slot over the positions of `x`, summing to one over positions."""
        return attention_weights_rows(self.key(x).flatten(2)).view(x.shape[0], -1, *x.shape[2:])


class WhitenedAffinity(nn.Module):
    """`softmax_j((q_i - mean q) . (k_j - mean k) / (temperature sqrt(D)))`, means over positions (arXiv 2006.06668).

    Args:
        temperature: divisor of the products, above 0.
    """

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(
        self, query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"], value: Float[Tensor, "n v k"]
    ) -> Float[Tensor, "n v p"]:
        return softmax_aggregate(_centered(query), _centered(key), value, self._scale(query))

    def weights(self, query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"]) -> Float[Tensor, "n p k"]:
        """Return the weights of the key positions for every query position.

        Args:
            query: embedded queries.
            key: embedded keys.
        """
        return softmax_weights(_centered(query), _centered(key), self._scale(query))

    def _scale(self, query: Tensor) -> float:
        return query.shape[1] ** -0.5 / self.temperature

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"


def _centered(tensor: Float[Tensor, "n d p"]) -> Float[Tensor, "n d p"]:
    return tensor - tensor.mean(dim=2, keepdim=True)


class Disentangled(nn.Module):
    """Disentangled non-local context: `c_i = sum_j (pairwise_ij + softmax_j(m_j)) v_j`, `m_j = w . x_j + b`.

    A whitened pairwise term, specific to each query, and a unary term, one attention map for all queries (arXiv
    2006.06668, section 4).

    Args:
        query: `(N, C, *S) -> (N, C', *S)`.
        key: as `query`.
        value: as `query`.
        unary: C -> 1.
        pairwise: affinity of the pairwise term.
    """

    def __init__(
        self, query: nn.Module, key: nn.Module, value: nn.Module, *, unary: Pointwise, pairwise: Affinity
    ) -> None:
        super().__init__()
        self.query = query
        self.key = key
        self.value = value
        self.unary = unary
        self.pairwise = pairwise

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n d *s"]:
        value = self.value(x).flatten(2)
        shared = weighted_sum(value, attention_weights(self.unary(x).flatten(1)))
        context = self.pairwise(*self._query_and_key(x), value) + shared.unsqueeze(-1)
        return context.reshape(*context.shape[:2], *x.shape[2:])

    def attention(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n p p"]:
        """Return the weights of each query position of `x` (row) over all positions: both terms, summing to two."""
        unary = attention_weights(self.unary(x).flatten(1))
        return self.pairwise.weights(*self._query_and_key(x)) + unary.unsqueeze(1)

    def _query_and_key(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.query(x).flatten(2), self.key(x).flatten(2)
