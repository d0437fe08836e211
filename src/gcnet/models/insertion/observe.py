"""One dry run of a network: which modules are called, in what order, on what, and what they give."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from gcnet.errors import UserError

_BATCH = 2
_SIZES = {1: (1024,), 2: (224, 224), 3: (16, 224, 224)}


@dataclass(eq=False)
class Call:
    """One call of one module; `children` are the calls made while it ran."""

    name: str
    module: nn.Module
    parent: "Call | None"
    inputs: list[Tensor]
    output: Any = None
    children: list["Call"] = field(default_factory=list)

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

    `arguments` are what it was run on.
    """

    calls: list[Call]
    arguments: tuple[Any, ...]

    def of(self, name: str) -> list[Call]:
        """The calls of one module."""
        return [call for call in self.calls if call.name == name]


def dry_run(model: nn.Module, example: Any) -> DryRun:
    """Run a copy of the network once, in eval mode: on the meta device where it can run there, else on its own.

    Args:
        model: left as it is, as is torch's random state.
        example: as `example_input` of `insert`.

    Raises:
        UserError: no run came to its end.
    """
    failure: Exception | None = None
    attempts = _arguments(model, example)
    for copy_of, move in ((_meta_copy, _to_meta), (copy.deepcopy, partial(_to_device_of, model))):
        for arguments in attempts:
            try:
                return DryRun(_watched(copy_of(model).eval(), move(arguments)), arguments)
            except Exception as error:  # A network of any kind may fail in any way.
                failure = error if arguments is attempts[0] else failure
    shapes = " and ".join(dict.fromkeys(_described(arguments) for arguments in attempts))
    reason = (str(failure).strip().splitlines() or [""])[0]
    raise UserError(
        f"insert runs the network once to see its shapes, and that failed on {shapes} ({type(failure).__name__}: "
        f"{reason}): give example_input=, a tensor or a shape such as (3, 224, 224)"
    ) from failure


def _watched(model: nn.Module, arguments: tuple[Any, ...]) -> list[Call]:
    """Run `model`, which is a copy, with a hook on every module; its calls in the order in which they began."""
    calls: list[Call] = []
    stack: list[Call] = []

    def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        call = Call(name, module, stack[-1] if stack else None, inputs)
        if stack:
            stack[-1].children.append(call)
        calls.append(call)
        stack.append(call)

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        stack.pop().output = output

    for name, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_pre_hook(partial(enter, name), with_kwargs=True)
            module.register_forward_hook(leave)
    devices = {tensor.device for tensor in model.parameters() if tensor.is_cuda}
    with torch.no_grad(), torch.random.fork_rng(devices=sorted(devices, key=str)):
        model(*arguments)
    return calls


def _meta_copy(model: nn.Module) -> nn.Module:
    """A copy whose tensors are on the meta device, made without copying them."""
    memo: dict[int, Any] = {}
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    for tensor in chain(model.parameters(), model.buffers(), kept):
        empty = torch.empty_like(tensor, device="meta", requires_grad=False)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, memo)


def _to_meta(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tree_map_only(Tensor, lambda tensor: tensor.to("meta"), arguments)


def _to_device_of(model: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    first = next(chain(model.parameters(), model.buffers()), torch.empty(0))
    return tree_map_only(Tensor, lambda tensor: tensor.to(first.device), arguments)


def _arguments(model: nn.Module, example: Any) -> list[tuple[Any, ...]]:
    """What the network may be run on, in the order in which to try it."""
    if example is None:
        return [_zeros(model, (_BATCH, *shape)) for shape in dict.fromkeys(_likely_shapes(model))]
    if isinstance(example, Sequence) and example and all(isinstance(side, int) for side in example):
        return [_zeros(model, shape) for shape in ((_BATCH, *example), tuple(example))]
    return [example if isinstance(example, tuple) else (example,)]


def _zeros(model: nn.Module, shape: Sequence[int]) -> tuple[Tensor]:
    floats = (tensor.dtype for tensor in model.parameters() if tensor.is_floating_point())
    return (torch.zeros(*shape, dtype=next(floats, torch.float32)),)


def _likely_shapes(model: nn.Module) -> Iterator[tuple[int, ...]]:
    """Shapes without the batch: what the network itself names, then what suits its first convolution."""
    convolutions = (module for module in model.modules() if isinstance(module, nn.modules.conv._ConvNd))
    first = next(convolutions, None)
    channels, dims = (3, 2) if first is None else (first.in_channels, first.weight.dim() - 2)
    sides = [getattr(getattr(model, "patch_embed", None), "img_size", None), getattr(model, "image_size", None)]
    for side in sides:
        if side is not None:
            yield (channels, side, side) if isinstance(side, int) else (channels, *side)
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, dict) else None
        if size is not None:
            yield (channels, *size[1:])
            yield tuple(size)
    yield (channels, *_SIZES[dims])
    yield (3, *_SIZES[2])


def _described(arguments: tuple[Any, ...]) -> str:
    tensors = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "what was given"
