"""One dry run of a network: the modules called, their order, inputs and outputs."""

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gcnet.errors import UserError, out_of_memory
from gcnet.models.insertion.copies import in_place, like_training, note_failure, on_meta, on_own_device
from gcnet.models.insertion.examples import Example, find_examples


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
        runnable: how the network was run, one of `gcnet.models.insertion.copies`.
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
