"""Where in a residual block the context block acts (arXiv 1904.11492, section 5.1.1, "Positions")."""

from typing import Literal, get_args

from torch import Tensor, nn

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
        """`x`, with the context fused in if `position` is the block's own."""
        return self.context(x) if position == self.context_position else x
