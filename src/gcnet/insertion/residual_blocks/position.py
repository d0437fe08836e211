"""Residual blocks with a context block at a position of the paper (arXiv 1904.11492, section 5.1.1, "Positions")."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.framework.block import ContextBlock
from gcnet.framework.in_place import apply_in_place, fuses_in_place
from gcnet.framework.observers import is_hooked, is_observed

Position = Literal["after_norm", "after_add", "after_conv2"]
POSITIONS: tuple[str, ...] = get_args(Position)


class Positioned(nn.Module):
    """A residual block with a child `context`, which is called at `context_position`.

    `after_norm`: after the last norm, before the addition (after1x1 in the paper). `after_add`: after the addition and
    its activation. `after_conv2`: after the norm and activation of the second convolution.
    """

    context: nn.Module
    context_position: Position

    def at(self, position: Position, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Apply the context block if `position` is its own.

        Only the residual block itself reads `x`, so the result may overwrite it, unless a hook on one of its modules
        could keep the map.

        Args:
            position: position in the forward pass of the residual block.
            x: feature map there.

        Returns:
            The map with its context, or `x` at other positions.
        """
        if position != self.context_position:
            return x
        if self.training or not isinstance(self.context, ContextBlock) or is_observed(self):
            return self.context(x)
        return apply_in_place(self.context, x)

    def join(self, out: Float[Tensor, "n c h w"], identity: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Add the shortcut, in place as torchvision and timm do unless a hook or the gradient of a block needs `out`.

        Args:
            out: output of the convolutions.
            identity: output of the shortcut.

        Returns:
            The sum.
        """
        in_place = isinstance(self.context, ContextBlock) and fuses_in_place(self.context)
        keeps_out = torch.is_grad_enabled() and not in_place
        if keeps_out or any(map(is_hooked, self.context.modules())):  # the search comes last: it takes longest
            return out + identity
        return out.add_(identity)
