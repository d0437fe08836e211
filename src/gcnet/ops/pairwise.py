"""The four non-local aggregations: for every query position, a sum over key positions (arXiv 1711.07971, section 3.2).

Shapes: query (N, D, P), key (N, D, K), value (N, V, K) -> (N, V, P); P query positions, K key positions.
`*_weights` gives the (N, P, K) matrix that the aggregation applies, for those who want to look at it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gcnet.ops.attention_pool import attention_weights


def softmax_weights(query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"], scale: float) -> Float[Tensor, "n p k"]:
    """`softmax_j(scale * q_i . k_j)`: Gaussian and embedded Gaussian."""
    return attention_weights_rows(torch.bmm(query.transpose(1, 2), key) * scale)


def attention_weights_rows(logits: Float[Tensor, "n p k"]) -> Float[Tensor, "n p k"]:
    """Each query's softmax over its keys."""
    return attention_weights(logits.flatten(0, 1)).view(logits.shape)


def softmax_aggregate(
    query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"], value: Float[Tensor, "n v k"], scale: float
) -> Float[Tensor, "n v p"]:
    """`sum_j softmax_j(scale * q_i . k_j) v_j`, in memory linear in positions.

    PyTorch's fused attention takes one width only: where D and V differ, the narrower tensors are padded with zeros.
    """
    width = max(query.shape[1], value.shape[1])
    heads = [_widened(tensor, width).transpose(1, 2).unsqueeze(1).contiguous() for tensor in (query, key, value)]
    pooled = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], scale=scale)  # (N, 1, P, D or V)
    return pooled[..., : value.shape[1]].squeeze(1).transpose(1, 2)


def _widened(tensor: Float[Tensor, "n c p"], width: int) -> Float[Tensor, "n width p"]:
    extra = width - tensor.shape[1]
    return F.pad(tensor, (0, 0, 0, extra)) if extra else tensor


def dot_product_weights(query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"]) -> Float[Tensor, "n p k"]:
    """`q_i . k_j / K`."""
    return torch.bmm(query.transpose(1, 2), key / key.shape[-1])


def dot_product_aggregate(
    query: Float[Tensor, "n d p"], key: Float[Tensor, "n d k"], value: Float[Tensor, "n v k"]
) -> Float[Tensor, "n v p"]:
    """`sum_j (q_i . k_j / K) v_j`, as `(sum_j v_j k_j^T / K) q_i`: linear in positions.

    Each factor is divided by sqrt(K), which keeps the sums of half-precision maps in range.
    """
    root = key.shape[-1] ** 0.5
    return torch.bmm(torch.bmm(value / root, (key / root).transpose(1, 2)), query)


def concatenation_weights(query_score: Float[Tensor, "n p"], key_score: Float[Tensor, "n k"]) -> Float[Tensor, "n p k"]:
    """`relu(a_i + b_j) / K`, where `w . [q_i; k_j] = a_i + b_j`."""
    return F.relu(query_score.unsqueeze(-1) + key_score.unsqueeze(-2)) / key_score.shape[-1]


def concatenation_aggregate(
    query_score: Float[Tensor, "n p"], key_score: Float[Tensor, "n k"], value: Float[Tensor, "n v k"]
) -> Float[Tensor, "n v p"]:
    """`sum_j relu(a_i + b_j) v_j / K`, exact, in K log K steps and memory linear in positions.

    With the keys sorted by falling b, those that query i listens to, b_j > -a_i, come first. So with the running sums
    of v and of b v, each taken up to there, the result is `a_i (sum v) + (sum b v)`. These sums are of both signs and
    large where the result may be small, hence float64. ONNX has no `searchsorted`: there the weights are made whole.
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
