"""Which axis of a tensor holds the channels: told by the layers that make it and take it in a dry run."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gcnet.errors import UserError
from gcnet.models.insertion.layout import Layout
from gcnet.models.insertion.observe import Call, DryRun

_FIRST, _LAST = 1, -1
_TOKENS = ("cls_token", "class_token", "dist_token", "reg_token", "register_tokens")


class Axes:
    """The layouts of a dry run's tensors.

    Args:
        run: the dry run.
        model: the network that was run, for the number of its class tokens.
    """

    def __init__(self, run: DryRun, model: nn.Module) -> None:
        self._run = run
        self._model = model
        self._taken: dict[int, int] = {}  # the axis that the layers taking a tensor imply, by the tensor's id
        self._found: dict[Call, int] = {}
        for call in run.calls:
            for tensor in call.inputs:
                axis = _implied(call.module, tensor)
                if axis is not None:
                    self._taken.setdefault(id(tensor), axis)
        outputs = [call.output for call in run.calls if isinstance(call.output, Tensor)]
        self._of_maps = {output.shape[2:].numel() for output in outputs if output.dim() >= 4}
        self._of_tokens = {output.shape[1] for output in outputs if output.dim() == 3}

    def layout(self, call: Call) -> Layout:
        """The layout of the call's output.

        Raises:
            UserError: the output is no tensor of floats with channels and 1 to 3 axes of positions.
        """
        output = call.output
        if not isinstance(output, Tensor):
            found = type(output).__name__
            raise UserError(f"a block acts on a tensor, and {call.name} gives a {found}: name a module that gives one")
        if not 3 <= output.dim() <= 5 or not output.is_floating_point():
            raise UserError(
                f"a block acts on floats of shape (N, C, *S), (N, *S, C) or (N, P, C), and {call.name} gives "
                f"{output.dtype} of shape {tuple(output.shape)}"
            )
        channels_last = self.channels_last(call)
        channels = output.shape[-1 if channels_last else 1]
        if not channels_last or output.dim() > 3:
            return Layout(channels, output.dim() - 2, channels_last)
        self._require_batch_first(call)
        return Layout(channels, 1, channels_last=True, prefix=self._prefix(call))

    def taken_last(self, tensor: Tensor) -> bool:
        """Whether a layer takes this tensor, with its channels on the last axis."""
        return self._taken.get(id(tensor)) == _LAST

    def channels_last(self, call: Call) -> bool:
        """Whether the output's channels are on the last axis."""
        if call not in self._found:
            self._found[call] = self._channel_axis(call)
        return self._found[call] == _LAST

    def _channel_axis(self, call: Call) -> int:
        """Told by the layer that takes this very tensor; else by the last that made, or takes, one of its shape."""
        axis = self._taken.get(id(call.output))
        if axis is not None:
            return axis
        shape = call.output.shape
        end = self._run.calls.index(call) + sum(1 for _ in call.subtree())
        before, after = self._run.calls[:end], self._run.calls[end:]
        makers = ((_implied(made.module, made.output), made.output) for made in reversed(before) if not made.children)
        takers = ((_implied(taker.module, taken), taken) for taker in after for taken in taker.inputs)
        for axis, tensor in (*makers, *takers):
            if axis is not None and tensor.shape == shape:
                return axis
        return _FIRST

    def _require_batch_first(self, call: Call) -> None:
        """Refuse (P, N, C): told by the second axis, which is the batch's, or by attention over the first."""
        shape = call.output.shape
        batch = next((leaf.shape[0] for leaf in self._run.calls[0].inputs if leaf.dim() > 0), 1)
        over_first = any(
            isinstance(other.module, nn.MultiheadAttention)
            and not other.module.batch_first
            and any(tensor.shape == shape for tensor in other.inputs)
            for other in self._run.calls
        )
        if over_first or (shape[1] == batch != shape[0] and batch > 1):
            raise UserError(f"the first axis must be the batch, and {call.name} gives (P, N, C) = {tuple(shape)}")

    def _prefix(self, call: Call) -> int:
        """Class tokens and registers at the start: those the network has, where the others are as many as elsewhere."""
        positions = call.output.shape[1]
        for module in self._holders(call.name):
            number = getattr(module, "num_prefix_tokens", None)
            tokens = [value for name, value in module.named_parameters() if name.rpartition(".")[2] in _TOKENS]
            if isinstance(number, int) or tokens:
                count = number if isinstance(number, int) else sum(token.shape[-2] for token in tokens)
                without = positions not in self._of_maps and positions - count in self._of_maps | self._of_tokens
                return count if without else 0
        return 0

    def _holders(self, name: str) -> Iterator[nn.Module]:
        while name:
            name = name.rpartition(".")[0]
            yield self._model.get_submodule(name)


def _implied(module: nn.Module, tensor: object) -> int | None:
    """The channel axis of a tensor that such a layer takes or makes."""
    if not isinstance(tensor, Tensor) or tensor.dim() < 3:
        return None
    if isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm):
        return _FIRST
    if type(module).__module__ == torch.nn.modules.pooling.__name__:
        return _FIRST
    if isinstance(module, nn.Linear | nn.MultiheadAttention) or type(module) in (nn.LayerNorm, nn.RMSNorm):
        return _LAST
    if isinstance(module, nn.LayerNorm):  # Subclasses may normalise channels-first maps.
        (features,) = module.normalized_shape[-1:]
        first, last = tensor.shape[1] == features, tensor.shape[-1] == features
        return None if first == last else _FIRST if first else _LAST
    return None
