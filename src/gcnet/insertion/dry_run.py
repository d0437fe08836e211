"""Dry run of a network on an example input: the modules called, their order, inputs and outputs."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from gcnet.errors import UserError, out_of_memory
from gcnet.insertion.model_copies import in_place, like_training, note_failure, on_meta, on_own_device

_BATCH = 2
_SIZES = {1: (1024,), 2: (224, 224), 3: (16, 224, 224)}
# Classes whose forward takes a list of images; of any other network a batch is tried first.
_TAKE_LISTS = frozenset(
    f"torchvision.models.detection.{name}"
    for name in ("generalized_rcnn.GeneralizedRCNN", "retinanet.RetinaNet", "fcos.FCOS", "ssd.SSD")
)


@dataclass(frozen=True)
class Example:
    """The arguments of one forward pass; `str()` gives the shapes of their tensors.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return [leaf for leaf in tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Tensor)]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Example":
        """Return the same arguments with `function` applied to every tensor (any shape, such as (N, C, H, W))."""
        args, kwargs = tree_map_only(Tensor, function, (self.args, dict(self.kwargs)))
        return Example(args, kwargs)

    def to(self, device: torch.device | str) -> "Example":
        """Return the same arguments on another `device`; tensors without values (device "meta") become zeros."""

        def move(tensor: Tensor) -> Tensor:
            return torch.zeros_like(tensor, device=device) if tensor.is_meta else tensor.to(device)

        return self.map(move)

    def __str__(self) -> str:
        return ", ".join(str(tuple(tensor.shape)) for tensor in self.tensors) or "the example_input"


def find_examples(model: nn.Module, given: Any) -> list[Example]:
    """List the inputs to try, in order.

    Args:
        model: the network.
        given: `example_input` of `insert`; None for zeros of the sizes that the network names, as a batch and as a
            list.

    Returns:
        The inputs.

    Raises:
        UserError: a shape with a side below 1, or a text, a number or an array.
    """
    if given is None:
        batches = [_zeros(model, (_BATCH, *shape)) for shape in dict.fromkeys(_likely_shapes(model))]
        lists = [Example((list(batch.tensors[0]),)) for batch in batches]
        names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(model).__mro__}
        return lists if names & _TAKE_LISTS else [*batches, *lists]
    if isinstance(given, Example):
        return [given]
    if isinstance(given, str | int | float) or hasattr(given, "__array_interface__"):
        shown = f"a numpy array of shape {given.shape}" if hasattr(given, "shape") else repr(given)
        raise UserError(f"`example_input` must be a tensor, a shape, or a tuple or dict of arguments; found {shown}")
    if isinstance(given, Sequence) and given and all(isinstance(side, int) for side in given):
        if min(given) < 1:
            raise UserError(f"`example_input`: every side of a shape must be at least 1, found {tuple(given)}")
        return [_zeros(model, shape) for shape in ((_BATCH, *given), tuple(given))]
    if isinstance(given, Mapping):  # Keyword arguments, or one argument that is a dict.
        named = [Example(kwargs=dict(given))] if all(isinstance(key, str) for key in given) else []
        return [*named, Example((given,))]
    return [Example(given if isinstance(given, tuple) else (given,))]


def _zeros(model: nn.Module, shape: Sequence[int]) -> Example:
    floats = (tensor.dtype for tensor in model.parameters() if tensor.is_floating_point())
    return Example((torch.zeros(*shape, dtype=next(floats, torch.float32), device="cpu"),))


def _likely_shapes(model: nn.Module) -> Iterator[tuple[int, ...]]:
    """Shapes without the batch: those that the network names, then those for its first convolution."""
    convolutions = (module for module in model.modules() if isinstance(module, nn.modules.conv._ConvNd))
    first = next(convolutions, None)
    channels, dims = (3, 2) if first is None else (first.in_channels, first.weight.dim() - 2)
    for size in _named_sizes(model):
        if isinstance(size, int):
            yield (channels, size, size)
        elif isinstance(size, Sequence) and size and all(isinstance(side, int) for side in size):
            yield (channels, *size)
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, dict) else None
        if size is not None:
            yield (channels, *size[1:])
            yield tuple(size)
    yield (channels, *_SIZES[dims])
    yield (3, *_SIZES[2])


def _named_sizes(model: nn.Module) -> Iterator[Any]:
    """Image sizes in the attributes of timm, torchvision and Hugging Face networks."""
    yield getattr(getattr(model, "patch_embed", None), "img_size", None)
    yield getattr(model, "image_size", None)
    config: Any = getattr(model, "config", None)
    for holder in (config, getattr(config, "vision_config", None)):
        yield holder.get("image_size") if isinstance(holder, dict) else getattr(holder, "image_size", None)


@dataclass(eq=False)
class ModuleCall:
    """One call of one module.

    Attributes:
        name: of the module.
        module: the module.
        parent: the call that made this one, None for the network's.
        inputs: tensors among the arguments, of any shape.
        output: as returned.
        children: calls made while it ran.
        returned: whether it returned.
    """

    name: str
    module: nn.Module
    parent: "ModuleCall | None"
    inputs: list[Tensor]
    output: Any = None
    children: list["ModuleCall"] = field(default_factory=list)
    returned: bool = False

    @property
    def tensor(self) -> Tensor | None:
        """The output, or its first item where it is a tuple or a list; None where that is no tensor."""
        first = self.output[0] if isinstance(self.output, tuple | list) and self.output else self.output
        return first if isinstance(first, Tensor) else None

    def subtree(self) -> Iterator["ModuleCall"]:
        """Yield this call and all within it, in the order in which they began."""
        yield self
        for child in self.children:
            yield from child.subtree()

    def ancestors(self) -> Iterator["ModuleCall"]:
        """Yield the calls that contain this one, the innermost first."""
        call = self.parent
        while call is not None:
            yield call
            call = call.parent


@dataclass(frozen=True)
class DryRun:
    """The calls of one forward pass, in the order in which they began; the first is that of the whole network.

    Attributes:
        calls: all of them, or those before the pass failed if these were enough.
        example: the input.
        runnable: how the network was run: a context manager of `gcnet.insertion.model_copies`.
        device: of the tensors.
    """

    calls: list[ModuleCall]
    example: Example
    runnable: Any = in_place
    device: torch.device = torch.device("cpu")

    def of(self, name: str) -> list[ModuleCall]:
        """Return the calls of the module `name` that returned."""
        return [call for call in self.calls if call.name == name and call.returned]

    def is_shared(self, name: str) -> bool:
        """Whether the module `name`, without parameters such as an activation, is called at several points of the
        network.

        A part of an encoder that runs several times is at one point.
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
    """A network failed on every example input.

    Args:
        reason: the error of the network, in one line.
        text: the message.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def run_once(model: nn.Module, example: Any, *, names: Collection[str] = (), partial: bool = False) -> DryRun:
    """Run the network once, in eval mode, without side effects.

    A copy on the meta device is tried first, then one on the network's own device. The network itself is run if it
    cannot be copied, or if a copy calls modules of the original (as a forward set on an instance may).

    Args:
        model: the network.
        example: as `example_input` of `insert`.
        names: modules that are expected to be called.
        partial: accept a pass that failed after all of `names` had returned. Detectors fail on the meta device after
            the backbone, and running them on a CPU takes long.

    Returns:
        The calls.

    Raises:
        CannotRun: no pass succeeded; raised from the error of the network.
        RuntimeError, MemoryError: out of memory.
    """
    failure: Exception | None = None
    incomplete: DryRun | None = None  # a whole pass without calls of some names
    examples = find_examples(model, example)
    own = next(chain(model.parameters(), model.buffers()), torch.empty(0, device="cpu")).device
    for runnable, device in ((on_meta, torch.device("meta")), (on_own_device, own), (in_place, own)):
        if incomplete is not None and runnable is not in_place:
            continue
        for inputs in examples if incomplete is None else [incomplete.example]:
            run, error = attempt(model, DryRun([], inputs, runnable, device))
            if (error is None or partial) and all(run.of(name) for name in names):
                return run
            if error is None:
                incomplete = incomplete or run
                break
            failure = error if inputs is examples[0] else failure
    if incomplete is not None:
        return incomplete
    if failure is not None and out_of_memory(failure) is not None:
        raise failure  # another example_input would not help
    shapes = " and ".join(dict.fromkeys(map(str, examples)))
    reason = ": ".join([type(failure).__name__, *str(failure).strip().splitlines()[:1]])
    raise CannotRun(
        reason,
        f"the network must run once to determine its shapes, and failed on {shapes} ({reason}): use "
        f"{'' if example is None else 'another '}`example_input`, a tensor, a shape such as "
        "(3, 224, 224), a tuple of arguments, or a dict of keyword arguments",
    ) from failure


def attempt(model: nn.Module, run: DryRun) -> tuple[DryRun, Exception | None]:
    """Run the network once and record its calls.

    Args:
        model: the network.
        run: an empty run, which is filled.

    Returns:
        The run, and the error that ended it or None.
    """
    try:
        with run.runnable(model) as copy:
            _record(copy, run.example.to(run.device), run.calls)
    except Exception as error:  # networks fail in any way; the error is reported
        note_failure(f"{run.example} on {run.device}")
        return run, error
    return run, None


def _record(model: nn.Module, example: Example, calls: list[ModuleCall]) -> None:
    """Run `model`, a copy or restored afterwards, with hooks on every module, and append its calls."""
    stack: list[ModuleCall] = []

    def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        call = ModuleCall(name, module, stack[-1] if stack else None, inputs)
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
