"""Context models: attention pooling, average pooling, and non-local contexts.

A context is `(N, C, *S) -> (N, C', 1, ...)` if it is the same for every query position, else `(N, C', *S)`. Contexts
that attend have a method `attention(x)`, which returns the weights over positions.
"""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.framework.narrow_contexts import NarrowAttention, NarrowContext, narrow_key
from gcnet.framework.overriding import Overridable
from gcnet.framework.pointwise import Pointwise, kaiming_normal
from gcnet.ops.attention_pool import attention_logits, attention_pool, attention_pool_with_map, attention_weights
from gcnet.ops.pairwise import (
    concatenation_aggregate,
    concatenation_weights,
    dot_product_aggregate,
    dot_product_weights,
    softmax_aggregate,
    softmax_weights,
)


class AveragePool(Overridable, nn.Module):
    """`c = mean_j x_j` (squeeze-and-excitation, arXiv 1709.01507, eq. 2)."""

    equivalents = ("narrow", "pool_narrow")

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *one"]:
        return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)

    def narrow(self, weight: Float[Tensor, "c k"], bias: Float[Tensor, " c"]) -> NarrowContext:
        """Return the context of `y = weight h + bias` as a function of `h`.

        Args:
            weight: of the convolution.
            bias: of the convolution.
        """
        return NarrowContext(self, weight.unsqueeze(0), bias)

    def pool_narrow(
        self,
        h: Float[Tensor, "n k *s"],
        weight: Float[Tensor, "c k"],  # noqa: ARG002
        scale: Float[Tensor, " c"],  # noqa: ARG002
    ) -> Float[Tensor, "n k"]:
        """Return the mean of `h`; see `PooledContext`.

        Args:
            h: input of the convolution.
            weight: of the convolution, without effect.
            scale: factor of each channel, without effect.
        """
        return h.flatten(2).mean(2)


class AttentionPool(Overridable, nn.Module):
    """`c = sum_j softmax_j(w . x_j + b) x_j`: one attention map for all queries (GCNet, arXiv 1904.11492, eq. 4).

    Args:
        channels: C of the map.
    """

    equivalents = ("narrow", "pool_narrow", "with_map")

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.key = Pointwise(channels, 1, initialize=kaiming_normal)

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *one"]:
        context = self.key(x, _pooled)
        return context.view(*context.shape, *[1] * (x.dim() - 2))

    def with_map(self, x: Float[Tensor, "n c *s"]) -> tuple[Float[Tensor, "n c *s"], Float[Tensor, "n c *one"]]:
        """Return the map and its context; see `attention_pool_with_map`.

        Args:
            x: feature map.
        """
        x, context = self.key(x, _pooled_with_map)
        return x, context.view(*context.shape, *[1] * (x.dim() - 2))

    def attention(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n *s"]:
        """Return the attention weight of every position of `x`, summing to one over positions."""
        return attention_weights(self.key(x, _logits)).view(x.shape[0], *x.shape[2:])

    def narrow(self, weight: Float[Tensor, "c k"], bias: Float[Tensor, " c"]) -> NarrowContext:
        """Return the context of `y = weight h + bias` as a function of `h`.

        Args:
            weight: of the convolution.
            bias: of the convolution.
        """
        return NarrowContext(NarrowAttention(narrow_key(self.key.weight, weight)), weight.unsqueeze(0), bias)

    def pool_narrow(
        self, h: Float[Tensor, "n k *s"], weight: Float[Tensor, "c k"], scale: Float[Tensor, " c"]
    ) -> Float[Tensor, "n k"]:
        """Return the sum of `h` weighted by the attention of `y_j = scale * (weight h_j)`; see `PooledContext`.

        Args:
            h: input of the convolution.
            weight: of the convolution.
            scale: factor of each channel.
        """
        scaled = self.key.weight[0] * scale
        return attention_pool(h.flatten(2), scaled @ weight.to(scaled.dtype), self.key.bias[0])


def _pooled(x: Tensor, weight: Float[Tensor, "1 c"], bias: Float[Tensor, "1"]) -> Float[Tensor, "n c"]:
    return attention_pool(x.flatten(2), weight[0], bias[0])


def _pooled_with_map(
    x: Tensor, weight: Float[Tensor, "1 c"], bias: Float[Tensor, "1"]
) -> tuple[Tensor, Float[Tensor, "n c"]]:
    return attention_pool_with_map(x, weight[0], bias[0])


def _logits(x: Tensor, weight: Float[Tensor, "1 c"], bias: Float[Tensor, "1"]) -> Float[Tensor, "n p"]:
    return attention_logits(x.flatten(2), weight[0], bias[0])


@runtime_checkable
class Affinity(Protocol):
    """Pairwise weights between query and key positions, and the weighted sum of the values."""

    def __call__(
        self, query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"], value: Float[Tensor, "n v k"]
    ) -> Float[Tensor, "n v p"]: ...

    def weights(self, query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"]) -> Float[Tensor, "n p k"]:
        """Return the weights of the key positions for every query position.

        Args:
            query: embedded queries.
            key: embedded keys.
        """
        ...


class SoftmaxAffinity(nn.Module):
    """Embedded Gaussian `softmax_j(q_i . k_j)`, optionally scaled by 1/sqrt(D) (arXiv 1711.07971, eq. 2-3).

    Args:
        scaled: divide the products by sqrt(D).
    """

    def __init__(self, *, scaled: bool) -> None:
        super().__init__()
        self.scaled = scaled

    def forward(
        self, query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"], value: Float[Tensor, "n v k"]
    ) -> Float[Tensor, "n v p"]:
        return softmax_aggregate(query, key, value, self._scale(query))

    def weights(self, query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"]) -> Float[Tensor, "n p k"]:
        """Return the weights of the key positions for every query position.

        Args:
            query: embedded queries.
            key: embedded keys.
        """
        return softmax_weights(query, key, self._scale(query))

    def _scale(self, query: Tensor) -> float:
        return query.shape[1] ** -0.5 if self.scaled else 1.0

    def extra_repr(self) -> str:
        return f"scaled={self.scaled}"


class DotProductAffinity(nn.Module):
    """`q_i . k_j / K` over K key positions (arXiv 1711.07971, eq. 4)."""

    def forward(
        self, query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"], value: Float[Tensor, "n v k"]
    ) -> Float[Tensor, "n v p"]:
        return dot_product_aggregate(query, key, value)

    def weights(self, query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"]) -> Float[Tensor, "n p k"]:
        """Return the weights of the key positions for every query position.

        Args:
            query: embedded queries.
            key: embedded keys.
        """
        return dot_product_weights(query, key)


class ConcatenationAffinity(nn.Module):
    """`relu(w_q . q_i + w_k . k_j) / K` over K key positions (arXiv 1711.07971, eq. 5).

    Args:
        channels: D of query and key; `weight` is (2, D), the rows w_q and w_k.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize with a normal of variance 2 / (2 D), for the 2 D inputs of the score."""
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)

    def forward(
        self, query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"], value: Float[Tensor, "n v k"]
    ) -> Float[Tensor, "n v p"]:
        return concatenation_aggregate(*self._scores(query, key), value)

    def weights(self, query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"]) -> Float[Tensor, "n p k"]:
        """Return the weights of the key positions for every query position.

        Args:
            query: embedded queries.
            key: embedded keys.
        """
        return concatenation_weights(*self._scores(query, key))

    def _scores(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return torch.matmul(self.weight[0], query), torch.matmul(self.weight[1], key)


class SubSample(nn.Module):
    """Max-pooling by two along each spatial axis, in 3-D all but the first; an axis of one position is unchanged."""

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *half"]:
        pool = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}[x.dim()]
        spatial = x.shape[2:]
        kernel = [1 if len(spatial) == 3 and axis == 0 else min(2, side) for axis, side in enumerate(spatial)]
        return pool(x, kernel)


class NonLocal(nn.Module):
    """Query-dependent context: `c_i = sum_j affinity(q_i, k_j) v_j` (arXiv 1711.07971, eq. 1).

    Args:
        query: `(N, C, *S) -> (N, C', *S)`.
        key: as `query`.
        value: as `query`.
        affinity: the weights of the sum.
        sub_sample: shrinks key and value maps, or `nn.Identity()`.
    """

    def __init__(
        self, query: nn.Module, key: nn.Module, value: nn.Module, *, affinity: Affinity, sub_sample: nn.Module
    ) -> None:
        super().__init__()
        self.query = query
        self.key = key
        self.value = value
        self.affinity = affinity
        self.sub_sample = sub_sample

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n d *s"]:
        value = self.sub_sample(self.value(x)).flatten(2)
        context = self.affinity(*self._query_and_key(x), value)
        return context.reshape(*context.shape[:2], *x.shape[2:])

    def attention(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n p k"]:
        """Return the weights of each query position of `x` (row) over the key positions, in memory order."""
        return self.affinity.weights(*self._query_and_key(x))

    def _query_and_key(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.query(x).flatten(2), self.sub_sample(self.key(x)).flatten(2)
