"""How a module's output is laid out, and a block that takes (N, C, *S) run on it."""

from dataclasses import dataclass
from typing import Any

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
        suffix: such tokens at the end.
    """

    channels: int
    dims: int = 2
    channels_last: bool = False
    prefix: int = 0
    suffix: int = 0

    @property
    def form(self) -> str:
        """In words, as in `Place.form`."""
        if not self.channels_last:
            return "map"
        return "tokens" if self.dims == 1 else "channels-last map"

    def run(self, block: nn.Module, output: Any) -> Any:
        """`block` on a module's output, or on the first item where that is a tuple or a list.

        torch.fx's stand-in for a tensor passes unchecked.

        Raises:
            UserError: the output is not laid out as it was when the block was inserted.
        """
        if isinstance(output, tuple | list) and output:
            items = [self._on_tensor(block, output[0]), *output[1:]]
            if isinstance(output, tuple) and hasattr(output, "_fields"):
                return type(output)(*items)
            return type(output)(items)
        return self._on_tensor(block, output)

    def _on_tensor(self, block: nn.Module, x: Any) -> Any:
        if isinstance(x, Tensor) and x.is_quantized:
            result = self._on_tensor(block, x.dequantize())
            # The scale of `x` does not fit: a block may leave its range, as a ReLU's.
            return torch.quantize_per_tensor_dynamic(result, x.dtype, reduce_range=False)
        if not isinstance(x, Proxy):
            self._check(x)
        if not self.channels_last:
            return block(x)
        last = self.dims + 1  # The older ONNX exporter needs axes counted from the front.
        if not self.prefix and not self.suffix:
            return block(x.movedim(last, 1)).movedim(1, last)
        end = x.shape[1] - self.suffix
        tokens = block(x[:, self.prefix : end].movedim(last, 1)).movedim(1, last)
        return torch.cat([x[:, : self.prefix], tokens, x[:, end:]], dim=1)

    def _check(self, x: Any) -> None:
        if isinstance(x, Tensor) and x.is_nested:
            raise UserError("a context block takes no nested tensors: give the encoder enable_nested_tensor=False")
        axis = -1 if self.channels_last else 1
        if isinstance(x, Tensor) and x.dim() == self.dims + 2 and x.shape[axis] == self.channels:
            return
        sides = "P" if self.form == "tokens" else ", ".join("THW"[3 - self.dims :])
        axes = f"{sides}, {self.channels}" if self.channels_last else f"{self.channels}, {sides}"
        found = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise UserError(f"a context block was inserted for outputs of shape (N, {axes}), found {found}")
