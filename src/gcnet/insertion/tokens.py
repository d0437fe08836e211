"""Token axes: which axes follow the size of the input, and the number of class tokens and registers."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gcnet.errors import UserError
from gcnet.insertion.dry_run import DryRun, Example, ModuleCall, attempt
from gcnet.insertion.model_copies import in_place, like_training, note_failure, on_meta, on_own_device

_MORE = 32  # pixels, a multiple of the strides of most networks


class Variation:
    """Changes of a network's output shapes with a larger batch and other input sizes, from further runs.

    Args:
        model: the network.
        run: a dry run of it.
    """

    def __init__(self, model: nn.Module, run: DryRun) -> None:
        self._model = model
        self._run = run

    def position_axes(self, call: ModuleCall) -> set[int]:
        """Return the axes of the output of `call` that change with the input size; empty for one size."""
        return self._changed(call, self._other_sizes)

    def batch_axes(self, call: ModuleCall) -> set[int]:
        """Return the axes of the output of `call` that change with the batch; empty if unknown."""
        return self._changed(call, self._other_batch)

    def _changed(self, call: ModuleCall, others: list[dict[ModuleCall, ModuleCall]]) -> set[int]:
        axes: set[int] = set()
        for other in others:
            own, changed = call.tensor, other[call].tensor if call in other else None
            if own is not None and changed is not None and own.dim() == changed.dim():
                axes |= {axis for axis in range(own.dim()) if own.shape[axis] != changed.shape[axis]}
        return axes

    @cached_property
    def _other_batch(self) -> list[dict[ModuleCall, ModuleCall]]:
        tensors = self._run.example.tensors
        batch = next((tensor.shape[0] for tensor in tensors if tensor.dim() > 1), 0)

        def grow(tensor: Tensor) -> Tensor:
            return torch.cat([tensor, tensor[:1]]) if tensor.dim() and tensor.shape[0] == batch else tensor

        return [self._matched(self._run.example.map(grow))] if batch else []

    @cached_property
    def _other_sizes(self) -> list[dict[ModuleCall, ModuleCall]]:
        """A run on another size; none if sequences may change along either axis, which is ambiguous."""
        is_sequence = max((tensor.dim() for tensor in self._run.example.tensors), default=0) == 3
        found = []
        for example in _resized(self._run.example):
            found.append(self._matched(example))
            if len(found[-1]) == len(self._run.calls) and not is_sequence:
                return found[-1:]
        whole = [matched for matched in found if len(matched) == len(self._run.calls)]
        return [] if len(whole) > 1 else whole or [max(found, key=len)] if found else []

    def _matched(self, example: Example) -> dict[ModuleCall, ModuleCall]:
        """The calls of a run on another input by those of the first run, up to the first difference."""
        other, _ = attempt(self._model, replace(self._run, calls=[], example=example))
        matched = {}
        for own, call in zip(self._run.calls, other.calls, strict=False):
            if own.name != call.name:
                break
            if call.returned:
                matched[own] = call
        return matched


def _resized(example: Example) -> Iterator[Example]:
    """The example with more positions: maps along all axes, sequences along either axis."""
    dims = max((tensor.dim() for tensor in example.tensors), default=0)
    if dims >= 4:
        yield example.map(_longer(dims, tuple(range(2, dims)), lambda side: side + _MORE))
        yield example.map(_longer(dims, tuple(range(2, dims)), lambda side: 2 * side))
    elif dims == 3:
        yield example.map(_longer(3, (1,), lambda side: 2 * side))
        yield example.map(_longer(3, (2,), lambda side: 2 * side))
    elif dims == 2:
        yield example.map(_longer(2, (1,), lambda side: max(side // 2, 1)))
        yield example.map(_longer(2, (1,), lambda side: 2 * side))


def _longer(dims: int, axes: tuple[int, ...], change: Callable[[int], int]) -> Callable[[Tensor], Tensor]:
    def apply(tensor: Tensor) -> Tensor:
        if tensor.dim() != dims:
            return tensor
        return tensor.new_zeros([change(side) if axis in axes else side for axis, side in enumerate(tensor.shape)])

    return apply


_NAMES = ("cls_token", "class_token", "dist_token", "reg_token", "register_tokens")
_MOST = 8  # most class tokens and registers
_LEAST_POSITIONS = 4  # per class token
_CAPTURED = 4  # tensors of one shape that are compared, in the order in which they appear


class ExtraTokens:
    """Numbers of class tokens and registers in the outputs of a dry run.

    Args:
        model: the network.
        run: a dry run of it.
    """

    def __init__(self, model: nn.Module, run: DryRun) -> None:
        self._model = model
        self._run = run
        self._measured: dict[tuple[int, ...], tuple[int, int] | None] = {}

    def of(self, call: ModuleCall) -> tuple[int, int]:
        """Return the numbers of extra tokens at the start and at the end of the output (N, P, C) of `call`.

        They are measured: the network is run on two inputs up to the first such tensor, in which extra tokens are
        equal. If that is not possible, the network's own count or the names of its parameters are used.

        Raises:
            UserError: there are more tokens than positions of a map, and the extra tokens cannot be inferred.
        """
        assert call.tensor is not None
        shape = tuple(call.tensor.shape)
        if shape[1] in self._positions_of_maps:
            return 0, 0
        measured = self._measure(shape)
        if measured is not None and sum(measured):
            return measured
        named = self._named(call, shape[1])
        if named:
            return named, 0
        known = next((count for count in self._measured.values() if count and sum(count)), None)
        if known is not None and shape[1] - sum(known) in self._positions_of_maps:
            return known
        more = [
            count
            for count in range(1, _MOST + 1)
            if shape[1] >= (1 + _LEAST_POSITIONS) * count and shape[1] - count in self._positions_of_maps
        ]
        if more:
            raise UserError(
                f"{call.name} returns {shape[1]} tokens, {more[0]} more than the positions of a map, and its class "
                "tokens are unknown: use `prefix_tokens`, their number at the start, or (start, end)"
            )
        return 0, 0

    @cached_property
    def _positions_of_maps(self) -> set[int]:
        outputs = (call.tensor for call in self._run.calls)
        sides = (output.shape[2:] for output in outputs if output is not None and output.dim() >= 4)
        # Attention of one query (N, heads, 1, P) is not a map.
        return {math.prod(shape) for shape in sides if min(shape) > 1}

    @cached_property
    def _numbers_of_tokens(self) -> set[int]:
        outputs = (call.tensor for call in self._run.calls)
        return {output.shape[1] for output in outputs if output is not None and output.dim() == 3}

    def _named(self, call: ModuleCall, positions: int) -> int:
        """The number of extra tokens by the network's attribute or parameters, if the rest matches other outputs."""
        for module in self._holders(call.name):
            number = getattr(module, "num_prefix_tokens", None)
            tokens = [value for name, value in module.named_parameters() if name.rpartition(".")[2] in _NAMES]
            if isinstance(number, int) or tokens:
                count = number if isinstance(number, int) else sum(token.numel() // token.shape[-1] for token in tokens)
                return count if positions - count in self._positions_of_maps | self._numbers_of_tokens else 0
        return 0

    def _holders(self, name: str) -> Iterator[nn.Module]:
        while name:
            name = name.rpartition(".")[0]
            yield self._model.get_submodule(name)

    def _measure(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        if shape not in self._measured:
            runs = [self._first_tensors(shape, changed) for changed in (False, True)]
            pairs = zip(*runs, strict=False)
            self._measured[shape] = next((count for count in (_equal_ends(*pair) for pair in pairs) if count), None)
        return self._measured[shape]

    def _first_tensors(self, shape: tuple[int, ...], changed: bool) -> list[Tensor]:
        """The first tensors of this shape that modules read or return, in a run on random numbers."""
        tensors = chain(self._model.parameters(), self._model.buffers())
        device = next(tensors, torch.empty(0, device="cpu")).device
        if device.type == "meta":
            return []
        runnables = (on_own_device, in_place) if self._run.runnable is on_meta else (self._run.runnable,)
        for runnable in runnables:
            found: list[Tensor] = []
            try:
                with runnable(self._model) as copy, torch.no_grad(), like_training(copy):
                    _capture(copy, shape, found)
                    example = _random(self._run.example, changed).to(device)
                    copy(*example.args, **example.kwargs)
            except _Captured:
                return found
            except Exception:  # fall through to the next way; if all fail, parameter names decide
                note_failure("the network on random images")
                continue
            return found
        return []


class _Captured(Exception):
    """Ends a run after enough tensors."""


def _capture(model: nn.Module, shape: tuple[int, ...], found: list[Tensor]) -> None:
    def keep(value: Any) -> None:
        for tensor in tree_leaves(value):
            if isinstance(tensor, Tensor) and tuple(tensor.shape) == shape and not tensor.is_nested:
                found.append(tensor.clone())  # the network may write into it later
        if len(found) >= _CAPTURED:
            raise _Captured

    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_pre_hook(lambda _, args, kwargs: keep((args, kwargs)), with_kwargs=True)
            module.register_forward_hook(lambda _, __, output: keep(output))


def _random(example: Example, changed: bool) -> Example:
    """Random floats, and whole numbers that all change, in the shapes of the example."""
    generator = torch.Generator().manual_seed(int(changed))

    def fill(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.rand(tensor.shape, generator=generator, device="cpu").to(tensor.dtype)
        if tensor.dtype == torch.bool or not changed or not tensor.numel():
            return tensor
        most = max(int(tensor.max()), 1)
        return (tensor + 1) % (most + 1)

    return example.to("cpu").map(fill)


def _equal_ends(first: Tensor, second: Tensor) -> tuple[int, int] | None:
    """Numbers of equal tokens at the start and the end; None if all are equal, or some in between."""
    equal = (first == second).all(dim=2).all(dim=0).tolist()
    if all(equal):
        return None
    start, end = equal.index(False), equal[::-1].index(False)
    return (start, end) if sum(equal) == start + end else None
