"""The term that a block adds to `y_j = alpha (W h_j - mean) + bias`, computed from the narrow `h` in training."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.framework.block import ContextBlock
from gcnet.framework.fusion import Add
from gcnet.framework.narrow_contexts import PooledContext
from gcnet.framework.overriding import has_other_parts, is_overridden
from gcnet.ops.batch_norm import NormStatistics


def adds_one_term(block: nn.Module) -> bool:
    """Whether `block` only adds one vector for each sample, which `term_of_block` computes.

    Args:
        block: the block.
    """
    if not isinstance(block, ContextBlock) or not block.is_composed or not isinstance(block.context, PooledContext):
        return False
    if is_overridden(block.context) or has_other_parts(block.context):
        return False
    return all(type(branch.fusion) is Add for branch in block.branches)


def term_of_block(
    block: ContextBlock,
    h: Float[Tensor, "n k *s"],
    weight: Float[Tensor, "c k"],
    statistics: NormStatistics,
    bias: Float[Tensor, " c"],
) -> Float[Tensor, "n c"]:
    """Return the term that a block adds to `y`, with gradients.

    Args:
        block: a block for which `adds_one_term` holds.
        h: input of the 1x1 convolution.
        weight: of the convolution, which has no bias.
        statistics: of the batch norm after it.
        bias: beta of the batch norm.
    """
    assert isinstance(block.context, PooledContext)
    alpha, mean = statistics.alpha, statistics.mean
    is_autocast = torch.is_autocast_enabled(h.device.type)
    with torch.autocast(h.device.type, enabled=False):
        pooled = block.context.pool_narrow(h, weight, alpha)
        vectors = alpha * (F.linear(pooled.to(alpha.dtype), weight.to(alpha.dtype)) - mean) + bias
    if not is_autocast:  # Layers of a lower precision than the norm take the dtype of the map.
        vectors = vectors.to(h.dtype)
    context = vectors.view(*vectors.shape, *[1] * (h.dim() - 2))
    return sum((branch.transform(context).flatten(1) for branch in block.branches), start=vectors.new_zeros(()))
