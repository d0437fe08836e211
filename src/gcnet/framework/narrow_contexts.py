"""Contexts of a 1x1 convolution's output `y_j = W h_j + b`, computed from its input `h`."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.ops.attention_pool import attention_logits, attention_pool, attention_weights


@dataclass(frozen=True)
class NarrowContext:
    """A context of `y = W h + b` that is computed from `h`.

    The channels of `y` are in G equal groups, each with its own pooled vector `p_g` of `h`: the context of the channels
    of group g is `W_g p_g + bias_g`.

    Attributes:
        pool: module `(N, K, *S) -> (N, G K)` or `(N, G K, 1, ...)`, the vectors of all groups one after the other.
        weight: W, (G, C / G, K).
        bias: (C,).
    """

    pool: nn.Module
    weight: Float[Tensor, "g c k"]
    bias: Float[Tensor, " c_all"]


@runtime_checkable
class LinearContext(Protocol):
    """A context that can be computed before the 1x1 convolution whose output is its map."""

    def narrow(self, weight: Float[Tensor, "c k"], bias: Float[Tensor, " c"]) -> NarrowContext:
        """Return the context of `y = weight h + bias` as a function of `h`.

        Args:
            weight: of the convolution.
            bias: of the convolution.
        """
        ...


@runtime_checkable
class PooledContext(Protocol):
    """A context `W p + b` of `y_j = W h_j + b` with one pooled vector p of `h`, also in training."""

    def pool_narrow(
        self, h: Float[Tensor, "n k *s"], weight: Float[Tensor, "c k"], scale: Float[Tensor, " c"]
    ) -> Float[Tensor, "n k"]:
        """Return the pooled vector of `h`, with gradients, for `y_j = scale * (weight h_j) + bias`.

        Args:
            h: input of the convolution.
            weight: of the convolution.
            scale: factor of each channel.
        """
        ...


def narrow_key(key: Float[Tensor, "1 c"], weight: Float[Tensor, "*g c k"]) -> Float[Tensor, "g k"]:
    """Return the key of `h` that gives the logits of `y = weight h + bias` up to a constant, for each group.

    Args:
        key: of `y`.
        weight: of the convolution, for each group.
    """
    return torch.matmul(key.double(), weight.double()).to(key.dtype).flatten(0, -2)


class NarrowAttention(nn.Module):
    """`p_g = sum_j softmax_j(key_g . h_j) h_j`: attention pooling of `h` for each group.

    Args:
        keys: (G, K), `W_g^T w_g`.
    """

    def __init__(self, keys: Float[Tensor, "g k"]) -> None:
        super().__init__()
        self.keys = nn.Parameter(keys, requires_grad=False)

    def forward(self, h: Float[Tensor, "n k *s"]) -> Float[Tensor, "n gk"]:
        if can_pool_one_image(h, self.keys):
            return pool_one_image(h, self.keys)
        flat = h.flatten(2)
        if len(self.keys) == 1:
            return attention_pool(flat, self.keys[0], None)
        return torch.bmm(self._weights(flat).to(h.dtype), flat.transpose(1, 2)).flatten(1)

    def attention(self, h: Float[Tensor, "n k *s"]) -> Float[Tensor, "n ..."]:
        """Return the attention weights over the positions of `h`: (N, *S), with several groups (N, G, *S)."""
        weights = self._weights(h.flatten(2)).unflatten(2, h.shape[2:])
        return weights.squeeze(1) if len(self.keys) == 1 else weights

    def _weights(self, flat: Float[Tensor, "n k p"]) -> Float[Tensor, "n g p"]:
        logits = [attention_logits(flat, key, None) for key in self.keys.to(flat.dtype)]
        return torch.stack([attention_weights(row) for row in logits], dim=1)


def is_one_image(h: Float[Tensor, "n k *s"]) -> bool:
    """Whether `h` is of one image, and operations for one image need not hold for others: not in `torch.jit.trace`.

    Args:
        h: input of the convolution.
    """
    return bool(h.shape[0] == 1) and not torch._C._is_tracing()  # in exported graphs the comparison is a SymBool


def can_pool_one_image(h: Float[Tensor, "n k *s"], keys: Float[Tensor, "*g k"]) -> bool:
    """Whether `pool_one_image` computes what `NarrowAttention` does.

    Args:
        h: input of the convolution.
        keys: of the groups.
    """
    # The softmax of half-precision logits is taken in float32.
    return is_one_image(h) and h.dtype == keys.dtype and h.dtype.itemsize >= 4 and not h.is_cuda


def pool_one_image(h: Float[Tensor, "1 k *s"], keys: Float[Tensor, "g k"]) -> Float[Tensor, "1 gk"]:
    """Return `NarrowAttention` of one image in as few operations as possible.

    Between two convolutions, a call costs more than what it computes.

    Args:
        h: input of the convolution.
        keys: of the groups.
    """
    flat = h.reshape(h.shape[1], -1)
    return torch.mm(torch.softmax(torch.mm(keys, flat), 1), flat.t()).view(1, -1)
