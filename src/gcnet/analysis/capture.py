"""Context manager that records attention weights and channel gates during forward passes."""

import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.analysis.attention import Attention
from gcnet.analysis.readers import Adapter, Call, Reader, find_reader
from gcnet.framework.block import Branch
from gcnet.framework.fusion import Add, Distribute
from gcnet.framework.narrow_block import NarrowBlock

_ATTENTION = re.compile(r"attention|attn|^xca$", re.IGNORECASE)
# Squeeze-and-excitation of other libraries: the part with the channel weights as output.
_GATES = {
    "timm.layers.squeeze_excite": "gate",
    "timm.layers.eca": "gate",
    "timm.layers.global_context": "gate",
    "timm.models._efficientnet_blocks": "gate",
    "torchvision.ops.misc": "scale_activation",
}


@dataclass(frozen=True)
class Gate:
    """Channel weights of one call of a gate.

    Attributes:
        name: of the module.
        weights: (N, C), means over positions where the gate has any.
    """

    name: str
    weights: Float[Tensor, "n c"]


@dataclass
class Capture:
    """Recorded attention and gates, in the order of the calls.

    Attributes:
        attention: name of the module, and what `keep` made of its attention.
        gates: of modules that weigh channels.
        unread: names of attention modules that ran and cannot be read; `adapters` takes readers for them.
    """

    attention: list[tuple[str, Any]] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    unread: dict[str, None] = field(default_factory=dict)
    _image: tuple[int, int] = (1, 1)
    _is_reading: bool = False


@contextmanager
def capture(
    model: nn.Module,
    *,
    adapters: Mapping[type[nn.Module], Adapter] | None = None,
    keep: Callable[[Attention], Any] = lambda attention: attention,
) -> Generator[Capture]:
    """Record the attention and the gates of every forward pass of a network in the context; hooks are removed on exit.

    Attention is read from blocks of this package whose context has `attention(x)`, `nn.MultiheadAttention`
    (torchvision's ViT), timm's ViT, DeiT, EVA, BEiT, Swin, NonLocalAttn and GlobalContext (gcresnet), and mmcv's
    ContextBlock and non-local blocks. The forward pass does not change: fused attention stays fused and random numbers
    stay the same. Weights are computed again from the inputs of the module, in evaluation mode, and detached. A P x P
    map of each call stays in memory, unless `keep` reduces it.

        with capture(model) as captured:
            model(images)
        for name, attention in captured.attention: ...

    Args:
        model: the network.
        adapters: readers of other modules, by type: `(module, *arguments of its call) -> weights`; for maps (N, C, *S)
            the weights (N, *S), or (N, P, K) with a row for each query position, or either with an axis of heads after
            the first; for tokens (N, P, C) (N, P, K) or (N, heads, P, K). `observed_weights` is an adapter for modules
            with one softmax as attention.
        keep: function of the attention of each call; its result is kept.

    Yields:
        The records.
    """
    found = Capture()
    known = dict(adapters or {})
    extra = next(
        (one for one in (getattr(part, "num_prefix_tokens", None) for part in model.modules()) if isinstance(one, int)),
        None,
    )
    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(_note_image(found), with_kwargs=True).remove)
        for name, module in model.named_modules():
            reader = find_reader(module, known)
            if reader is not None:
                hook = _reading(found, name, reader, keep, extra)
                hooks.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            for part, gate_hook in _gates(found, name, module):
                hooks.callback(part.register_forward_hook(gate_hook).remove)
        for name, module in _unread_attention(model, known).items():
            hooks.callback(module.register_forward_hook(_noting_unread(found, name)).remove)
        yield found


def _unread_attention(model: nn.Module, adapters: Mapping[type[nn.Module], Adapter]) -> dict[str, nn.Module]:
    """Modules that are attention by the name of their type, without a reader for them or for one around or in them."""
    modules = dict(model.named_modules())
    read = [
        name for name, module in modules.items() if find_reader(module, adapters) or _gates(Capture(), name, module)
    ]
    unread: dict[str, nn.Module] = {}
    for name, module in modules.items():
        if not _ATTENTION.search(type(module).__name__):
            continue
        around = (f"{name}.".startswith(f"{other}.") for other in (*read, *unread))
        within = (f"{other}.".startswith(f"{name}.") for other in read)
        if not any(around) and not any(within):
            unread[name] = module
    return unread


def _noting_unread(found: Capture, name: str) -> Callable[..., None]:
    return lambda *_: found.unread.update({name: None})


def _note_image(found: Capture) -> Callable[..., None]:
    def hook(_: nn.Module, arguments: Any, options: Any) -> None:
        images = next((one for one in (*arguments, *options.values()) if isinstance(one, Tensor)), None)
        found._image = (1, 1) if images is None or images.dim() < 4 else (images.shape[-2], images.shape[-1])

    return hook


def _reading(
    found: Capture, name: str, reader: Reader, keep: Callable[[Attention], Any], extra: int | None
) -> Callable[..., None]:
    def hook(module: nn.Module, arguments: Any, options: Any, output: Any) -> None:
        if found._is_reading:  # a part of a module that is being read
            return
        found._is_reading = True
        try:
            with _evaluating(module), torch.no_grad():
                attention = reader(module, Call(arguments, options, output, extra, found._image))
                if attention is not None:
                    found.attention.append((name, keep(attention)))
        finally:
            found._is_reading = False

    return hook


def _gates(found: Capture, name: str, module: nn.Module) -> list[tuple[nn.Module, Callable[..., None]]]:
    """The part of a module with the gate as output, with the hook that records it."""
    if isinstance(module, Branch) and not isinstance(module.fusion, Add | Distribute):

        def of_fusion(fusion: nn.Module, arguments: Any, _: Any) -> None:
            x, term = arguments
            with torch.no_grad():  # `y = gate x + bias`
                bias = fusion.forward(torch.zeros_like(x), term)
                _note_gate(found, name, fusion.forward(torch.ones_like(x), term) - bias)

        return [(module.fusion, of_fusion)]
    if isinstance(module, NarrowBlock):

        def of_block(_: nn.Module, __: Any, output: Any) -> None:
            if output[0] is not None:
                _note_gate(found, name, output[0].detach())

        return [(module, of_block)]
    part = getattr(module, _GATES.get(type(module).__module__, ""), None)
    if not isinstance(part, nn.Module):
        return []
    return [(part, lambda _, __, output: _note_gate(found, name, output.detach()))]


def describe_unread(model: nn.Module, unread: Iterable[str]) -> str:
    """Return a sentence about attention modules that cannot be read.

    Args:
        model: the network.
        unread: names of the modules, from `Capture.unread`.

    Returns:
        The sentence; empty if there are none.
    """
    kinds = Counter(type(model.get_submodule(name)).__name__ for name in unread)
    if not kinds:
        return ""
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return (
        f"not shown: attention of a kind that cannot be read ({listed}); in Python, "
        "gcnet.analysis.capture.capture(model, adapters={...}) takes a reader for it"
    )


def _note_gate(found: Capture, name: str, factors: Tensor) -> None:
    if found._is_reading:
        return
    weights = factors.flatten(1) if factors.dim() == 3 and factors.shape[1] == 1 else factors.flatten(2).mean(-1)
    found.gates.append(Gate(name, weights))


@contextmanager
def _evaluating(module: nn.Module) -> Generator[None]:
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training
