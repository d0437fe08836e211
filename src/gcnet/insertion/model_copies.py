"""Runs of a network without side effects: copies on the meta device or with shared memory, or restored."""

import copy
import logging
import random
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gcnet.errors import UserError, out_of_memory, printable

_LOG = logging.getLogger("gcnet")


class UncopyableNetwork(UserError):
    """A network cannot be copied: a module has an attribute, such as a lock or an open file, that cannot be."""


def deep_copy(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of `model`, also where modules hold tensors computed from parameters, such as pruned weights.

    Args:
        model: the network.
        memo: what takes the place of objects, by id, as in `copy.deepcopy`.

    Raises:
        UncopyableNetwork: an object of the network cannot be copied.
    """
    try:
        with _ComputedTensors():
            return copy.deepcopy(model, memo)
    except Exception as error:
        if out_of_memory(error) is not None:
            raise
        reason = printable(str(error).partition("\n")[0])
        raise UncopyableNetwork(
            f"the network must be copied, and an object that it holds cannot be: {reason}"
        ) from error


class _ComputedTensors(TorchFunctionMode):
    """Copies the values of tensors that are no leaves of the graph, which PyTorch refuses to copy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return _clone(args[0])
        return func(*args, **(kwargs or {}))


def note_failure(trial: str) -> None:
    """Log the current exception with its traceback at level DEBUG.

    Networks fail in any way on devices, sizes and modes they are not made for, and insertion continues without the
    trial; if the cause is a mistake in the network, the log shows it.

    Args:
        trial: description for the log.
    """
    _LOG.debug("insertion continues without the trial run, which failed: %s", trial, exc_info=True)


@contextmanager
def on_meta(model: nn.Module) -> Generator[nn.Module, None, None]:
    """Copy `model` to the meta device, in eval mode: shapes without values.

    Yields:
        The copy.

    Raises:
        UncopyableNetwork: an object of the network cannot be copied.
    """
    yield _copy(model, lambda tensor: torch.empty_like(tensor, device="meta", requires_grad=False)).eval()


@contextmanager
def on_own_device(model: nn.Module) -> Generator[nn.Module, None, None]:
    """Copy `model` in eval mode, with parameters in shared memory.

    Yields:
        The copy.

    Raises:
        UncopyableNetwork: an object of the network cannot be copied.
    """
    yield _copy(model, lambda tensor: tensor.detach() if isinstance(tensor, nn.Parameter) else _clone(tensor)).eval()


def detached_copy(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in eval mode, without gradients.

    Raises:
        UncopyableNetwork: an object of the network cannot be copied.
    """
    return _copy(model, _clone).eval()


@contextmanager
def in_place(model: nn.Module) -> Generator[nn.Module, None, None]:
    """Use `model` itself in eval mode and restore it afterwards.

    Attributes, containers, buffers, hooks and modes of its modules, and the owners of its hooks are restored.

    Yields:
        The network.
    """
    undo = [*_restore_tensors(model), *_restore_objects(model)]
    try:
        yield model.eval()
    finally:
        with torch.no_grad():
            for restore in undo:
                restore()


@contextmanager
def like_training(model: nn.Module) -> Generator[None, None, None]:
    """Run attention of `model` as in training, without the fast path of nested tensors; restores random states.

    Yields:
        Nothing.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    devices = {tensor.device for tensor in model.parameters() if tensor.is_cuda}
    python, numpy = random.getstate(), np.random.get_state()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(devices=sorted(devices, key=str)):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        random.setstate(python)
        np.random.set_state(numpy)


def _clone(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _copy(model: nn.Module, replace: Callable[[Tensor], Tensor]) -> nn.Module:
    """A deep copy in which `replace` makes the tensors."""
    memo: dict[int, Any] = {}
    for tensor in chain(model.parameters(), _plain_tensors(model)):
        new = replace(tensor)
        memo[id(tensor)] = nn.Parameter(new, requires_grad=False) if isinstance(tensor, nn.Parameter) else new
    return deep_copy(model, memo)


def _plain_tensors(model: nn.Module) -> Iterator[Tensor]:
    """The buffers, and the tensors that are plain attributes."""
    yield from model.buffers()
    for module in model.modules():
        yield from (value for value in vars(module).values() if isinstance(value, Tensor))


def _restore_tensors(model: nn.Module) -> Iterator[Callable[[], object]]:
    for tensor in {id(tensor): tensor for tensor in _plain_tensors(model)}.values():
        yield partial(tensor.copy_, _clone(tensor))


def _restore_objects(model: nn.Module) -> Iterator[Callable[[], object]]:
    for owner in _owners(model):
        if isinstance(owner, torch.jit.ScriptModule):
            yield partial(owner.train, owner.training)
            continue
        for value in (vars(owner), *vars(owner).values()):
            restore = _restorer(value)
            if restore is not None:
                yield restore


def _owners(model: nn.Module) -> list[Any]:
    owners: dict[int, Any] = {}
    for module in model.modules():
        owners[id(module)] = module
        for hook in chain(module._forward_hooks.values(), module._forward_pre_hooks.values()):
            owner = getattr(hook, "__self__", None)
            if hasattr(owner, "__dict__") and not isinstance(owner, type):
                owners[id(owner)] = owner
    return list(owners.values())


def _restorer(value: Any) -> Callable[[], object] | None:
    """A function that gives a container or a random generator its present contents back; None for other objects."""
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, dict | set):
        return partial(_refill, value, value.update, copy.copy(value))
    if isinstance(value, list | deque):
        return partial(_refill, value, value.extend, list(value))
    return None


def _refill(container: Any, fill: Callable[[Any], object], contents: Any) -> None:
    container.clear()
    fill(contents)
