"""Non-local aggregations: for every query position, a weighted sum over key positions.

Shapes: query (N, D, P), key (N, D, K), value (N, V, K) -> (N, V, P); P query positions, K key positions. `*_weights`
returns the (N, P, K) weight matrix of the aggregation. Equations are those of arXiv 1711.07971, section 3.2.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gcnet.ops.attention_pool import attention_weights


def softmax_weights(query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"], scale: float) -> Float[Tensor, "n p k"]:
    """Return `softmax_j(scale * q_i . k_j)`, the weights of the Gaussian and embedded Gaussian (eq. 2-3).

    Args:
        query: embedded queries.
        key: embedded keys.
        scale: factor of the products.
    """
    return attention_weights_rows(torch.bmm(query.transpose(1, 2), key) * scale)


def attention_weights_rows(logits: Float[Tensor, "n p k"]) -> Float[Tensor, "n p k"]:
    """Return the softmax of `logits` over the keys of each query."""
    return attention_weights(logits.flatten(0, 1)).view(logits.shape)


def softmax_aggregate(
    query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"], value: Float[Tensor, "n v k"], scale: float
) -> Float[Tensor, "n v p"]:
    """Softmax attention: `sum_j softmax_j(scale * q_i . k_j) v_j`, in memory linear in positions (eq. 2-3).

    PyTorch's fused attention takes one width only: where D and V differ, the narrower tensors are padded with zeros. On
    a GPU all are padded to a multiple of 8, since its memory-efficient kernels take no other width.

    Args:
        query: embedded queries.
        key: embedded keys.
        value: embedded values.
        scale: factor of the products.

    Returns:
        The context of every query position.
    """
    width = fused_width(max(query.shape[1], value.shape[1]), query.device)
    heads = [_widened(tensor, width).transpose(1, 2).unsqueeze(1).contiguous() for tensor in (query, key, value)]
    pooled = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], scale=scale)  # (N, 1, P, D or V)
    return pooled[..., : value.shape[1]].squeeze(1).transpose(1, 2)


def fused_width(width: int, device: torch.device) -> int:
    """Return the width to which queries, keys and values are padded for fused attention.

    Args:
        width: of the widest.
        device: on which it runs.
    """
    return -(-width // 8) * 8 if device.type == "cuda" else width


def _widened(tensor: Float[Tensor, "n c p"], width: int) -> Float[Tensor, "n width p"]:
    extra = width - tensor.shape[1]
    return F.pad(tensor, (0, 0, 0, extra)) if extra else tensor


def dot_product_weights(query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"]) -> Float[Tensor, "n p k"]:
    """Return `q_i . k_j / K`, the weights of the dot product (eq. 4).

    Args:
        query: embedded queries.
        key: embedded keys.
    """
    return torch.bmm(query.transpose(1, 2), key / key.shape[-1])


def dot_product_aggregate(
    query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"], value: Float[Tensor, "n v k"]
) -> Float[Tensor, "n v p"]:
    """Dot-product attention: `sum_j (q_i . k_j / K) v_j`, as `(sum_j v_j k_j^T / K) q_i`, linear in positions (eq. 4).

    Each factor is divided by sqrt(K), which keeps the sums of half-precision maps in range.

    Args:
        query: embedded queries.
        key: embedded keys.
        value: embedded values.

    Returns:
        The context of every query position.
    """
    root = key.shape[-1] ** 0.5
    return torch.bmm(torch.bmm(value / root, (key / root).transpose(1, 2)), query)


def concatenation_weights(query_score: Float[Tensor, "n p"], key_score: Float[Tensor, "n k"]) -> Float[Tensor, "n p k"]:
    """Return `relu(a_i + b_j) / K`, where `w . [q_i; k_j] = a_i + b_j` (eq. 5).

    Args:
        query_score: a, the scores of the queries.
        key_score: b, the scores of the keys.
    """
    return F.relu(query_score.unsqueeze(-1) + key_score.unsqueeze(-2)) / key_score.shape[-1]


def concatenation_aggregate(
    query_score: Float[Tensor, "n p"], key_score: Float[Tensor, "n k"], value: Float[Tensor, "n v k"]
) -> Float[Tensor, "n v p"]:
    """Concatenation attention: `sum_j relu(a_i + b_j) v_j / K`, exact, in O(K log K) time and linear memory (eq. 5).

    With keys sorted by descending b, the keys of nonzero weight for query i, b_j > -a_i, come first. With cumulative
    sums of v and of b v up to there, the result is `a_i (sum v) + (sum b v)`. These sums have both signs and may be
    much larger than the result, hence float64. ONNX has no `searchsorted`: there the full weight matrix is computed.

    Args:
        query_score: a, the scores of the queries.
        key_score: b, the scores of the keys.
        value: embedded values.

    Returns:
        The context of every query position.
    """
    if torch.onnx.is_in_onnx_export():
        return torch.bmm(value, concatenation_weights(query_score, key_score).transpose(1, 2))
    scores, order = key_score.double().sort(dim=-1, descending=True)
    ranked = value.double().gather(-1, order.unsqueeze(1).expand_as(value))  # (N, V, K)
    heard = torch.searchsorted(-scores, query_score.double().contiguous())  # (N, P): how many keys query i listens to
    place = heard.unsqueeze(1).expand(-1, value.shape[1], -1)  # (N, V, P)
    plain = F.pad(ranked.cumsum(-1), (1, 0)).gather(-1, place)
    weighted = F.pad((scores.unsqueeze(1) * ranked).cumsum(-1), (1, 0)).gather(-1, place)
    total = query_score.double().unsqueeze(1) * plain + weighted
    return (total / key_score.shape[-1]).to(value.dtype)
