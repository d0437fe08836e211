"""Heads of a network: modules that only make its output, and heads that read the class token alone."""

import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gcnet.insertion.dry_run import Call, DryRun, in_place, like_training, note_failure, on_meta, on_own_device
from gcnet.insertion.layout import Layout

_WEIGHTED = re.compile(r"\w*(Convolution|Conv\dd|ConvTranspose\dd|Addmm|Linear|Mm|Bmm)\w*Backward")
_NORM_OR_ACTIVATION = re.compile(
    r"\w*(BatchNorm|LayerNorm|GroupNorm|RmsNorm|Relu|Gelu|Silu|Elu|Hardswish|Hardtanh|Mish)\w*Backward"
)


def answer_modules(model: nn.Module, run: DryRun) -> set[str]:
    """Names of modules whose outputs only make up the answer.

    Such an output is a projection, made by a convolution or a linear layer without a norm or an activation of features
    behind it, and no layer reads it, as the graph of automatic differentiation shows. A residual block at the end of a
    backbone is none: it is made of several modules and keeps the shape of its input.

    Args:
        model: the network.
        run: a dry run of it; where the network cannot be copied the graph is not recorded, and none is found.
    """
    if run.runnable is in_place:
        return set()
    made: list[tuple[str, Any]] = []
    outputs: list[Any] = []
    try:
        with run.runnable(model) as host, torch.enable_grad(), like_training(host):
            for parameter in host.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            for name, module in host.named_modules():
                if not isinstance(module, torch.jit.ScriptModule):
                    module.register_forward_hook(lambda _, __, output, name=name: made.append((name, _node(output))))
            example = run.example.to(run.device)
            outputs = tree_leaves(host(*example.args, **example.kwargs))
    except Exception:  # Networks that only run without gradients: no graph, and no answer is found.
        note_failure("the network with gradients")
        return set()
    graph = _Graph(node for node in (*(node for _, node in made), *map(_node, outputs)) if node is not None)
    answers = {name for name, node in made if graph.is_answer(node)}
    return {call.name for call in run.calls if call.name in answers and not _is_residual(_last(call))}


def _last(call: Call) -> Call:
    """The call that makes the output of a plain Sequential."""
    while isinstance(call.module, nn.Sequential) and call.children:
        call = call.children[-1]
    return call


def _is_residual(call: Call) -> bool:
    shape = None if call.tensor is None else call.tensor.shape
    return bool(call.children) and any(tensor.shape == shape for tensor in call.inputs)


def _node(output: Any) -> Any:
    first = output[0] if isinstance(output, tuple | list) and output else output
    return first.grad_fn if isinstance(first, Tensor) else None


class _Graph:
    """The operations of one forward pass, and which read which."""

    def __init__(self, nodes: Iterable[Any]) -> None:
        self._readers: dict[Any, list[Any]] = defaultdict(list)
        waiting, seen = list(nodes), set()
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            for source in self._sources(node):
                self._readers[source].append(node)
                waiting.append(source)

    def is_answer(self, node: Any) -> bool:
        """Whether the node's result is a projection that no layer reads."""
        return node is not None and self._is_projection(node) and not any(map(_is_layer, self._later(node)))

    def _is_projection(self, node: Any) -> bool:
        waiting, seen, weighted = [node], set(), False
        while waiting:
            current = waiting.pop()
            if current in seen:
                continue
            seen.add(current)
            if _NORM_OR_ACTIVATION.match(current.name()):
                return False
            if _WEIGHTED.match(current.name()):
                weighted = True
            else:
                waiting += self._sources(current)
        return weighted

    def _later(self, node: Any) -> set[Any]:
        waiting, seen = list(self._readers[node]), set()
        while waiting:
            current = waiting.pop()
            if current not in seen:
                seen.add(current)
                waiting += self._readers[current]
        return seen

    @staticmethod
    def _sources(node: Any) -> list[Any]:
        return [source for source, _ in node.next_functions if source is not None]


def _is_layer(node: Any) -> bool:
    return bool(_WEIGHTED.match(node.name()) or _NORM_OR_ACTIVATION.match(node.name()))


def reads_all_tokens(model: nn.Module, run: DryRun, name: str, layout: Layout) -> bool:
    """Whether the network's output depends on more than the extra tokens of the module's output.

    Measured by changing the others in a second run; without values (on the meta device) from timm's `global_pool`.

    Args:
        model: the network.
        run: a dry run of it.
        name: of the module.
        layout: of the module's output.
    """
    device = next(chain(model.parameters(), model.buffers()), torch.empty(0, device="cpu")).device
    if device.type == "meta":
        return getattr(model, "global_pool", "token") != "token"
    runnable = on_own_device if run.runnable is on_meta else run.runnable
    outputs = []
    for change in (0, 1):
        try:
            with runnable(model) as host, torch.no_grad(), like_training(host):
                shift = _Shift(change)
                host.get_submodule(name).register_forward_hook(
                    lambda _, __, output, shift=shift: layout.run(shift, output)
                )
                example = run.example.to(device)
                outputs.append(tree_leaves(host(*example.args, **example.kwargs)))
        except Exception:  # A network that runs on the meta device alone: nothing is known, so nothing is left out.
            note_failure("the network on its own device")
            return True
    return any(not _equal(first, second) for first, second in zip(*outputs, strict=True))


class _Shift(nn.Module):
    """Adds something else to each channel of every token that a block would see."""

    def __init__(self, amount: int) -> None:
        super().__init__()
        self._amount = amount

    def forward(self, x: Tensor) -> Tensor:
        ramp = torch.linspace(1, 2, x.shape[1], device=x.device, dtype=x.dtype)
        return x + self._amount * ramp[:, None]


def _equal(first: Any, second: Any) -> bool:
    if not isinstance(first, Tensor):
        return True
    return bool(torch.equal(first.nan_to_num(), second.nan_to_num())) if first.is_floating_point() else True
