"""Layout of a module's output: the axis of the channels, and how to run a block for (N, C, *S) on it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from gcnet.errors import UserError
from gcnet.insertion.dry_run import DryRun, ModuleCall
from gcnet.insertion.tokens import ExtraTokens, Variation


@dataclass(frozen=True)
class Layout:
    """Axes of channels and positions of a tensor.

    Attributes:
        channels: C.
        dims: number of axes of positions: 1 for tokens.
        channels_last: (N, *S, C) instead of (N, C, *S).
        prefix: tokens at the start (class tokens, registers) that a block neither sees nor changes.
        suffix: such tokens at the end.
    """

    channels: int
    dims: int = 2
    channels_last: bool = False
    prefix: int = 0
    suffix: int = 0

    @property
    def form(self) -> str:
        """The form of the output, "map", "channels-last map" or "tokens", as in `Site.form`."""
        if not self.channels_last:
            return "map"
        return "tokens" if self.dims == 1 else "channels-last map"

    def run(self, block: nn.Module, output: Any) -> Any:
        """Apply a block to a module's output, or to the first item of a tuple or list.

        Proxies of torch.fx are not checked.

        Args:
            block: the block, for maps (N, C, *S).
            output: output of the module.

        Returns:
            The output with its context.

        Raises:
            UserError: the output has another layout than at insertion.
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
            raise UserError("context blocks do not take nested tensors: set enable_nested_tensor=False in the encoder")
        axis = -1 if self.channels_last else 1
        if isinstance(x, Tensor) and x.dim() == self.dims + 2 and x.shape[axis] == self.channels:
            return
        sides = "P" if self.form == "tokens" else ", ".join("THW"[3 - self.dims :])
        axes = f"{sides}, {self.channels}" if self.channels_last else f"{self.channels}, {sides}"
        found = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise UserError(f"a context block was inserted for outputs of shape (N, {axes}), found {found}")


_FIRST, _LAST = 1, -1
LAYOUTS = ("channels_first", "channels_last", "tokens")


class Axes:
    """Layouts of the outputs of a dry run.

    Axes that change with the size of the input hold positions. If a network takes one size only, the layers that take
    or make a tensor determine its channel axis.

    Args:
        run: the dry run.
        model: the network that was run.
        layout: one of `LAYOUTS` for all outputs; None to infer it.
        extra_tokens: numbers of class tokens and registers at the start and at the end; None to infer them.
    """

    def __init__(
        self,
        run: DryRun,
        model: nn.Module,
        *,
        layout: str | None = None,
        extra_tokens: tuple[int, int] | None = None,
    ) -> None:
        self._run = run
        self._model = model
        self._layout = layout
        self._extra_tokens = extra_tokens
        self._variation = Variation(model, run)
        self._taken: dict[int, int] = {}  # the axis that the layers taking a tensor imply, by the tensor's id
        self._found: dict[ModuleCall, int | None] = {}
        for call in run.calls:
            for tensor in call.inputs:
                axis = _implied(call.module, tensor)
                if axis is not None:
                    self._taken.setdefault(id(tensor), axis)

    def layout(self, call: ModuleCall) -> Layout:
        """Return the layout of the output of `call`.

        Raises:
            UserError: not a floating-point tensor with channels and 1 to 3 axes of positions, or its channel axis or
                class tokens are unknown.
        """
        output = call.tensor
        if output is None:
            kind = type(call.output).__name__
            raise UserError(
                f"a block needs a tensor, alone or first in a tuple or list, but {call.name} returns a {kind}: use "
                "another module"
            )
        if not 3 <= output.dim() <= 5 or not (output.is_floating_point() or output.is_quantized):
            raise UserError(
                f"a block needs floats of shape (N, C, *S), (N, *S, C) or (N, P, C), but {call.name} returns "
                f"{output.dtype} of shape {tuple(output.shape)}"
            )
        axis = self._axis(call)
        if axis is None:
            raise UserError(
                f"the channel axis of {call.name}, which returns {tuple(output.shape)}, is unknown: use `layout`, one "
                f"of {', '.join(LAYOUTS)}"
            )
        self._require_batch_first(call)
        channels_last = axis == _LAST
        if not channels_last or output.dim() > 3:
            return Layout(output.shape[axis], output.dim() - 2, channels_last)
        prefix, suffix = self._extra_tokens or self._tokens.of(call)
        if prefix + suffix >= output.shape[1]:
            raise UserError(f"`prefix_tokens` must be fewer than the {output.shape[1]} tokens of {call.name}")
        return Layout(output.shape[-1], 1, channels_last=True, prefix=prefix, suffix=suffix)

    def taken_last(self, tensor: Tensor) -> bool:
        """Whether a layer takes `tensor` (of any shape, such as (N, P, C)) with channels on the last axis."""
        return self._taken.get(id(tensor)) == _LAST

    def channels_last(self, call: ModuleCall) -> bool:
        """Whether the output of `call` is known to have its channels on the last axis."""
        return self._axis(call) == _LAST

    @cached_property
    def _tokens(self) -> ExtraTokens:
        return ExtraTokens(self._model, self._run)

    def _axis(self, call: ModuleCall) -> int | None:
        if self._layout is not None:
            dims = 0 if call.tensor is None else call.tensor.dim()
            if self._layout == "tokens" and dims > 3:
                return None
            return _FIRST if self._layout == "channels_first" else _LAST
        if call not in self._found:
            self._found[call] = self._find(call)
        return self._found[call]

    def _find(self, call: ModuleCall) -> int | None:
        output = call.tensor
        if output is None or output.dim() < 3:
            return None
        last, changing = output.dim() - 1, self._variation.position_axes(call) - {0}
        if last in changing and 1 not in changing:
            return _FIRST
        if 1 in changing and last not in changing:
            return _LAST
        return self._by_layers(call, output) or self._by_sides(output) or self._by_likeness(call, output)

    def _by_layers(self, call: ModuleCall, output: Tensor) -> int | None:
        """From the layer that reads or returns this tensor, else the nearest that does so with its shape."""
        axis = self._taken.get(id(output))
        if axis is not None:
            return axis
        end = self._run.calls.index(call) + sum(1 for _ in call.subtree())
        before, after = self._run.calls[:end], self._run.calls[end:]
        makers = ((_implied(made.module, made.tensor), made.tensor) for made in reversed(before) if not made.children)
        takers = ((_implied(taker.module, taken), taken) for taker in after for taken in taker.inputs)
        ambiguous = output.shape[1] == output.shape[-1]
        for axis, tensor in (*makers, *takers):
            same = tensor is not None and tensor.shape == output.shape
            if axis is not None and (tensor is output if ambiguous else same):
                return axis
        return None

    def _by_sides(self, output: Tensor) -> int | None:
        """From square maps of square images and RoIs: the axis of another length holds the channels."""
        if output.dim() < 4 or output.shape[1] == output.shape[-1]:
            return None
        is_square_behind = len(set(output.shape[2:])) == 1
        image = next((tensor for tensor in self._run.calls[0].inputs if tensor.dim() == output.dim()), None)
        if image is None:  # a list of images, whose RoIs are pooled to square maps
            return _FIRST if is_square_behind else None
        if len(set(image.shape[2:])) > 1:
            return None
        if is_square_behind:
            return _FIRST
        return _LAST if len(set(output.shape[1:-1])) == 1 else None

    def _by_likeness(self, call: ModuleCall, output: Tensor) -> int | None:
        """From an input of the same shape, else from other modules of this class with axes of different lengths."""
        for tensor in call.inputs:
            if tensor.shape == output.shape and id(tensor) in self._taken:
                return self._taken[id(tensor)]
        kind = type(call.module)
        alike = [other for other in self._run.calls if type(other.module) is kind] if call.children else []
        axes = {
            self._by_layers(other, other.tensor)
            for other in alike
            if other.tensor is not None
            and other.tensor.dim() == output.dim()
            and other.tensor.shape[1] != other.tensor.shape[-1]
        } - {None}
        return axes.pop() if len(axes) == 1 else None

    def _require_batch_first(self, call: ModuleCall) -> None:
        """Raise UserError if the first axis of an output is not the batch."""
        shape = tuple(call.tensor.shape) if call.tensor is not None else ()
        axes = self._variation.batch_axes(call)
        over_first = any(
            isinstance(other.module, nn.MultiheadAttention)
            and not other.module.batch_first
            and any(tuple(tensor.shape) == shape for tensor in other.inputs)
            for other in self._run.calls
        )
        if over_first or (axes and 0 not in axes):
            letters = "(P, N, C)" if len(shape) == 3 else "another order"
            raise UserError(f"the first axis must be the batch, but {call.name} returns {letters} = {shape}")


def _implied(module: nn.Module, tensor: object) -> int | None:
    """The channel axis of a tensor that the layer reads or returns, None if unknown."""
    if not isinstance(tensor, Tensor) or tensor.dim() < 3:
        return None
    if isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm):
        return _FIRST
    if type(module).__module__ == torch.nn.modules.pooling.__name__:
        return _FIRST
    if isinstance(module, nn.Linear | nn.MultiheadAttention) or type(module) in (nn.LayerNorm, nn.RMSNorm):
        return _LAST
    if isinstance(module, nn.LayerNorm):  # Subclasses may normalize channels-first maps.
        (features,) = module.normalized_shape[-1:]
        first, last = tensor.shape[1] == features, tensor.shape[-1] == features
        return None if first == last else _FIRST if first else _LAST
    return None
