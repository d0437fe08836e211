"""How a module's output is laid out, and a block that takes (N, C, *S) run on it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from gcnet.errors import UserError


@dataclass(frozen=True)
class Layout:
    """Where the channels and the positions of a tensor are.

    Args:
        channels: C.
        dims: axes of positions: 1 for tokens.
        channels_last: (N, *S, C) instead of (N, C, *S).
        prefix: tokens at the start (class tokens, registers) that a block does not see and does not change.
    """

    channels: int
    dims: int = 2
    channels_last: bool = False
    prefix: int = 0

    @property
    def form(self) -> str:
        """In words, as in `Place.form`."""
        if not self.channels_last:
            return "map"
        return "tokens" if self.dims == 1 else "channels-last map"

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        """`block` on `x`, in the layout of `x`; torch.fx's stand-in for a tensor passes unchecked.

        Raises:
            UserError: `x` is not laid out as it was when the block was inserted.
        """
        if not isinstance(x, Proxy):
            self._check(x)
        if not self.channels_last:
            return block(x)
        last = self.dims + 1  # The older ONNX exporter needs axes counted from the front.
        if not self.prefix:
            return block(x.movedim(last, 1)).movedim(1, last)
        tokens = block(x[:, self.prefix :].movedim(last, 1)).movedim(1, last)
        return torch.cat([x[:, : self.prefix], tokens], dim=1)

    def _check(self, x: Tensor) -> None:
        axis = -1 if self.channels_last else 1
        if isinstance(x, Tensor) and x.dim() == self.dims + 2 and x.shape[axis] == self.channels:
            return
        sides = "P" if self.form == "tokens" else ", ".join("THW"[3 - self.dims :])
        axes = f"{sides}, {self.channels}" if self.channels_last else f"{self.channels}, {sides}"
        found = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise UserError(f"a context block was inserted for outputs of shape (N, {axes}), found {found}")
