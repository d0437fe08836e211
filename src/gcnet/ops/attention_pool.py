"""Attention pooling: one weighted mean of all positions (GCNet, arXiv 1904.11492, eq. 4, the sum over j)."""

import torch
from jaxtyping import Float
from torch import Tensor


def attention_weights(logits: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """Softmax over positions in at least float32, so that half-precision logits of any finite size stay finite."""
    return torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def attention_pool(x: Float[Tensor, "n c p"], logits: Float[Tensor, "n p"]) -> Float[Tensor, "n c"]:
    """`sum_j softmax(logits)_j x_j`, in the dtype of `x`."""
    weights = attention_weights(logits).to(x.dtype)
    return torch.bmm(x, weights.unsqueeze(-1)).squeeze(-1)
