"""Calls of a block that overwrite their map where nothing can observe it."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.fx import Proxy

from gcnet.framework.block import ContextBlock
from gcnet.framework.fusion import Fusion
from gcnet.framework.observers import is_observed


def apply_in_place(block: ContextBlock, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *s"]:
    """Call a block on a map that no other code reads, and overwrite the map where possible.

    A new map is returned where gradients are on, where the network is traced, compiled or exported, and where a hook on
    the block or one of its parts could observe the change.

    Args:
        block: the block.
        x: the map.

    Returns:
        The map with its context.
    """
    if torch.is_grad_enabled() or isinstance(x, Proxy) or is_observed(block) or not fuses_in_place(block):
        return block(x)
    block.check_shape(x)
    context = block.context(x)
    for branch in block.branches:
        x = branch.fusion(x, branch.transform(context), out=x)
    return x


def fuses_in_place(block: ContextBlock) -> bool:
    """Whether all fusions of `block` can overwrite the map, and no gradient needs the result of the block."""
    return block.is_composed and all(isinstance(branch.fusion, Fusion) for branch in block.branches)
