"""One dry run of a network on a copy or on itself: the modules called, their order, inputs and outputs."""

import copy
import functools
import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gcnet.errors import UserError, out_of_memory
from gcnet.insertion.examples import Example, find_examples

_LOG = logging.getLogger("gcnet")


def note_failure(trial: str) -> None:
    """Log the error that is being handled, with its traceback, for those who look for it (level DEBUG).

    Networks fail in any way on devices, sizes and modes that they are not made for, and insertion goes on without the
    trial; where the cause is a mistake in the network, this shows it.

    Args:
        trial: what was tried, in a few words.
    """
    _LOG.debug("insertion goes on without a trial run that failed: %s", trial, exc_info=True)


@contextmanager
def on_meta(model: nn.Module) -> Generator[nn.Module, None, None]:
    """A copy in eval mode whose tensors are on the meta device: shapes without values.

    Raises:
        Exception: whatever copying an object of the network raises.
    """
    yield _copy(model, lambda tensor: torch.empty_like(tensor, device="meta", requires_grad=False)).eval()


@contextmanager
def on_own_device(model: nn.Module) -> Generator[nn.Module, None, None]:
    """A copy in eval mode that shares the memory of the parameters.

    Raises:
        Exception: whatever copying an object of the network raises.
    """
    yield _copy(model, lambda tensor: tensor.detach() if isinstance(tensor, nn.Parameter) else _clone(tensor)).eval()


@contextmanager
def in_place(model: nn.Module) -> Generator[nn.Module, None, None]:
    """The network itself in eval mode.

    Attributes, containers, buffers, hooks and modes of its modules and of objects that its hooks belong to are restored
    afterwards.
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
    """Run attention as in training, not on its fast path with nested tensors; restore random states afterwards."""
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
    return copy.deepcopy(model, memo)


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


@dataclass(eq=False)
class Call:
    """One call of one module; `children` are the calls made while it ran."""

    name: str
    module: nn.Module
    parent: "Call | None"
    inputs: list[Tensor]
    output: Any = None
    children: list["Call"] = field(default_factory=list)
    returned: bool = False

    @property
    def tensor(self) -> Tensor | None:
        """The output, or its first item where it is a tuple or a list; None where that is no tensor."""
        first = self.output[0] if isinstance(self.output, tuple | list) and self.output else self.output
        return first if isinstance(first, Tensor) else None

    def subtree(self) -> Iterator["Call"]:
        """This call and all within it, in the order in which they began."""
        yield self
        for child in self.children:
            yield from child.subtree()

    def ancestors(self) -> Iterator["Call"]:
        """The calls that this one is within, from the innermost."""
        call = self.parent
        while call is not None:
            yield call
            call = call.parent


@dataclass(frozen=True)
class DryRun:
    """The calls of one forward pass, in the order in which they began; the first is that of the whole network.

    Args:
        calls: all of them, or those before the pass failed where these were enough.
        example: the input.
        runnable: how the network was run, one of `gcnet.insertion.dry_run`.
        device: of the tensors.
    """

    calls: list[Call]
    example: Example
    runnable: Any = in_place
    device: torch.device = torch.device("cpu")

    def of(self, name: str) -> list[Call]:
        """The calls of one module that returned."""
        return [call for call in self.calls if call.name == name and call.returned]

    def is_shared(self, name: str) -> bool:
        """Whether a module without parameters, such as an activation, is called in several places of the network.

        A part of an encoder that runs several times is in one place.
        """
        calls = self.of(name)
        if len(calls) < 2 or any(True for _ in calls[0].module.parameters()):
            return False
        holders = {call.parent for call in calls if call.parent is not None}
        if len(holders) < len(calls):
            return True
        names = {holder.name for holder in holders}
        return len(names) > 1 or self.is_shared(names.pop())


class CannotRun(UserError):
    """A network failed on every example input; `reason` says how."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def dry_run(model: nn.Module, example: Any, *, names: Collection[str] = (), partial: bool = False) -> DryRun:
    """Run the network once, in eval mode, without a trace.

    A copy on the meta device is tried first, then one on the network's own device. The network itself is run where it
    cannot be copied, and where a copy calls modules of the original (as a forward set on an instance may).

    Args:
        model: the network.
        example: as `example_input` of `insert`.
        names: of modules that are expected to be called.
        partial: accept a pass that failed after all of `names` had returned. Detectors fail on the meta device behind
            the backbone, and running them on a CPU takes long.

    Raises:
        CannotRun: no pass succeeded; raised from the error of the network.
        RuntimeError, MemoryError: out of memory.
    """
    failure: Exception | None = None
    lacking: DryRun | None = None  # a whole pass without some of the names
    examples = find_examples(model, example)
    own = next(chain(model.parameters(), model.buffers()), torch.empty(0, device="cpu")).device
    for runnable, device in ((on_meta, torch.device("meta")), (on_own_device, own), (in_place, own)):
        if lacking is not None and runnable is not in_place:
            continue
        for inputs in examples if lacking is None else [lacking.example]:
            run, error = attempt(model, DryRun([], inputs, runnable, device))
            if (error is None or partial) and all(run.of(name) for name in names):
                return run
            if error is None:
                lacking = lacking or run
                break
            failure = error if inputs is examples[0] else failure
    if lacking is not None:
        return lacking
    if failure is not None and out_of_memory(failure) is not None:
        raise failure  # another example_input is not what helps
    shapes = " and ".join(dict.fromkeys(map(str, examples)))
    reason = ": ".join([type(failure).__name__, *str(failure).strip().splitlines()[:1]])
    raise CannotRun(
        reason,
        f"insert runs the network once to see its shapes, and that failed on {shapes} ({reason}): give "
        f"{'' if example is None else 'another '}example_input=, a tensor, a shape such as "
        "(3, 224, 224), a tuple of arguments, or a dict of keyword arguments",
    ) from failure


def attempt(model: nn.Module, run: DryRun) -> tuple[DryRun, Exception | None]:
    """Make an empty run: the calls until the end, or until the error that is returned with them."""
    try:
        with run.runnable(model) as host:
            _watch(host, run.example.to(run.device), run.calls)
    except Exception as error:  # A network of any kind may fail in any way; the error is reported.
        note_failure(f"{run.example} on {run.device}")
        return run, error
    return run, None


def _watch(model: nn.Module, example: Example, calls: list[Call]) -> None:
    """Run `model`, a copy or restored afterwards, with hooks on every module, and append its calls."""
    stack: list[Call] = []

    def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        call = Call(name, module, stack[-1] if stack else None, inputs)
        if stack:
            stack[-1].children.append(call)
        calls.append(call)
        stack.append(call)

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        while stack[-1].module is not module:  # Modules whose exception the network caught.
            stack.pop()
        stack[-1].output, stack[-1].returned = output, True
        stack.pop()

    for name, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_pre_hook(functools.partial(enter, name), with_kwargs=True)
            module.register_forward_hook(leave)
    with torch.no_grad(), like_training(model):
        model(*example.args, **example.kwargs)
