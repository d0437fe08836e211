"""Axes of positions and of the batch: those whose length changes when the input does."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from gcnet.models.insertion.examples import Example
from gcnet.models.insertion.observe import Call, DryRun, attempt

_MORE = 32  # pixels, a multiple of the strides of most networks


class Variation:
    """How the shapes of a network's outputs follow its input, from further runs on a larger batch and other sizes.

    Args:
        model: the network.
        run: a dry run of it.
    """

    def __init__(self, model: nn.Module, run: DryRun) -> None:
        self._model = model
        self._run = run

    def position_axes(self, call: Call) -> set[int]:
        """Axes of the call's output that change with the size of the input; empty where the network takes one size."""
        return self._changed(call, self._other_sizes)

    def batch_axes(self, call: Call) -> set[int]:
        """Axes of the call's output that change with the batch; empty where that is unknown."""
        return self._changed(call, self._other_batch)

    def _changed(self, call: Call, others: list[dict[Call, Call]]) -> set[int]:
        axes: set[int] = set()
        for other in others:
            own, changed = call.tensor, other[call].tensor if call in other else None
            if own is not None and changed is not None and own.dim() == changed.dim():
                axes |= {axis for axis in range(own.dim()) if own.shape[axis] != changed.shape[axis]}
        return axes

    @cached_property
    def _other_batch(self) -> list[dict[Call, Call]]:
        tensors = self._run.example.tensors
        batch = next((tensor.shape[0] for tensor in tensors if tensor.dim() > 1), 0)

        def grow(tensor: Tensor) -> Tensor:
            return torch.cat([tensor, tensor[:1]]) if tensor.dim() and tensor.shape[0] == batch else tensor

        return [self._matched(self._run.example.map(grow))] if batch else []

    @cached_property
    def _other_sizes(self) -> list[dict[Call, Call]]:
        """A run on another size; none where sequences may change along either axis, which says nothing."""
        is_sequence = max((tensor.dim() for tensor in self._run.example.tensors), default=0) == 3
        found = []
        for example in _resized(self._run.example):
            found.append(self._matched(example))
            if len(found[-1]) == len(self._run.calls) and not is_sequence:
                return found[-1:]
        whole = [matched for matched in found if len(matched) == len(self._run.calls)]
        return [] if len(whole) > 1 else whole or [max(found, key=len)] if found else []

    def _matched(self, example: Example) -> dict[Call, Call]:
        """The calls of a run on another input, by those of the first run, as far as both are the same."""
        other, _ = attempt(self._model, replace(self._run, calls=[], example=example))
        matched = {}
        for own, call in zip(self._run.calls, other.calls, strict=False):
            if own.name != call.name:
                break
            if call.returned:
                matched[own] = call
        return matched


def _resized(example: Example) -> Iterator[Example]:
    """The example with more positions: of maps along all their axes, of sequences along the one or the other."""
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
