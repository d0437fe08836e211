"""Position of the context block in a residual block (arXiv 1904.11492, section 5.1.1, "Positions")."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gcnet.framework.block import ContextBlock
from gcnet.framework.observed import is_observed

Position = Literal["after_norm", "after_add", "after_conv2"]
POSITIONS: tuple[str, ...] = get_args(Position)


class Positioned(nn.Module):
    """A residual block with a context block of its own; `context` is called at `context_position`.

    `after_norm`: after the last normalisation, before the addition (the paper's after1x1). `after_add`: after the
    addition and its activation. `after_conv2`: after the second convolution's norm and activation.
    """

    context: nn.Module
    context_position: Position

    def at(self, position: Position, x: Tensor) -> Tensor:
        """`x` with the context fused in if `position` is the block's own.

        Only the residual block itself reads `x`, so the result may be written over it, unless a hook on one of its
        modules could keep the map.
        """
        if position != self.context_position:
            return x
        if self.training or not isinstance(self.context, ContextBlock) or is_observed(self):
            return self.context(x)
        return self.context.forward_in_place(x)

    def join(self, out: Tensor, identity: Tensor) -> Tensor:
        """The residual sum, over `out` as the hosts have it, unless the gradient of a block may need `out` as it is."""
        in_place = isinstance(self.context, ContextBlock) and self.context.fuses_in_place
        return out.add_(identity) if in_place or not torch.is_grad_enabled() else out + identity
