"""Readers of attention weights: for our blocks, and for modules of other libraries.

A reader is given the module and the call, and runs in evaluation mode without gradients. Modules of other libraries are
known by their names or parts, so that none of them is imported.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gcnet.analysis.attention import Attention, attention_over_map, attention_over_tokens
from gcnet.errors import UserError
from gcnet.framework.block import ContextBlock
from gcnet.framework.narrow_block import NarrowBlock

Adapter = Callable[..., Tensor | Attention]
"""`(module, *arguments of its call) -> weights` or a whole `Attention`."""


@dataclass(frozen=True)
class Call:
    """One call of a module, with information on the network's input.

    Attributes:
        arguments: by position.
        options: by name.
        output: output of the module.
        extra: number of tokens before those of the image, if the network declares it.
        image: height and width of the network's input.
    """

    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    output: Any
    extra: int | None = None
    image: tuple[int, int] = (1, 1)

    @property
    def x(self) -> Tensor:
        """The first input of the module."""
        return next(value for value in (*self.arguments, *self.options.values()) if isinstance(value, Tensor))


Reader = Callable[[Any, Call], Attention | None]


def find_reader(module: nn.Module, adapters: Mapping[type[nn.Module], Adapter]) -> Reader | None:
    """Return the reader of a module's attention.

    Args:
        module: the module.
        adapters: readers of other types of modules.

    Returns:
        The reader; None for modules without known attention.
    """
    adapter = next((adapters[kind] for kind in adapters if isinstance(module, kind)), None)
    if adapter is not None:
        return partial(_read_adapted, adapter=adapter)
    if isinstance(module, ContextBlock):
        return _read_context_block if callable(getattr(module.context, "attention", None)) else None
    if isinstance(module, NarrowBlock):
        return _read_narrow_block if callable(getattr(module.pool, "attention", None)) else None
    if isinstance(module, nn.MultiheadAttention):
        return _read_multi_head
    name = f"{type(module).__module__}.{type(module).__name__}"
    if name in _BY_NAME:
        return _BY_NAME[name]
    if _logits(module) is not None:
        return _read_pooling
    return _read_non_local if callable(_pairwise(module)) else None


def is_block_on_maps(module: nn.Module) -> bool:
    """Whether a module is a block on maps (N, C, *S) that adds its input, so that another could replace it."""
    return find_reader(module, {}) in (_read_context_block, _read_pooling, _read_non_local, _read_observed_map)


def observed_weights(module: nn.Module, *arguments: Any, **options: Any) -> Tensor:
    """Return the weights of the last softmax or scaled_dot_product_attention in a call of a module.

    An adapter for modules with one softmax as attention, fused or not: the weights of fused attention are computed
    from its queries and keys.

    Args:
        module: the module.
        arguments: of the call, by position.
        options: of the call, by name.

    Returns:
        Weights of the shape of the softmax.

    Raises:
        UserError: there is no softmax in its forward.
    """
    watch = _Watch()
    with watch:
        module.forward(*arguments, **options)
    if watch.weights is None:
        raise UserError(
            f"the attention of {type(module).__name__} cannot be observed: its forward calls neither softmax nor "
            "scaled_dot_product_attention"
        )
    return watch.weights


class _Watch(TorchFunctionMode):
    """Keeps the weights of the last softmax or scaled dot-product attention."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "softmax":
            self.weights = result
        elif name == "scaled_dot_product_attention":
            self.weights = _dot_product_weights(*args, **(kwargs or {}))
        return result


def _dot_product_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The weights inside `scaled_dot_product_attention`: its result for values that are unit vectors, one a key."""
    del value, dropout_p
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        logits = logits.masked_fill(torch.ones_like(logits, dtype=torch.bool).triu(1), -torch.inf)
    elif attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
    return logits.softmax(-1)


def _read_adapted(module: nn.Module, call: Call, *, adapter: Adapter) -> Attention:
    found = adapter(module, *call.arguments, **call.options)
    if isinstance(found, Attention):
        return found
    output = call.output if isinstance(call.output, Tensor) and call.output.shape == call.x.shape else None
    if call.x.dim() == 3:
        return _over_tokens(found, call, call.x, output)
    return attention_over_map(found, call.x, output)


def _read_context_block(module: ContextBlock, call: Call) -> Attention:
    attention: Any = module.context.attention
    return attention_over_map(attention(call.x), call.x, call.output - call.x)


def _read_narrow_block(module: NarrowBlock, call: Call) -> Attention:
    """The attention of a block of `gcnet.fuse`, whose input is that of the last convolution."""
    attention: Any = module.pool.attention
    return attention_over_map(attention(call.x), call.x, None)


def _read_pooling(module: nn.Module, call: Call) -> Attention | None:
    logits = _logits(module)
    if logits is None or getattr(call.output, "shape", None) != call.x.shape:
        return None  # known by one part only, and something else after all
    weights = logits(call.x).flatten(1).softmax(-1).view(len(call.x), *call.x.shape[2:])
    return attention_over_map(weights, call.x, call.output - call.x)


def _read_non_local(module: nn.Module, call: Call) -> Attention:
    """The non-local block of mmcv calls a method named after its mode for the weights: its result is kept."""
    method: Any = _pairwise(module)
    kept: list[Tensor] = []

    def keeping(*arguments: Tensor) -> Tensor:
        kept.append(method(*arguments))
        return kept[-1]

    mode: Any = module.mode
    vars(module)[mode] = keeping
    try:
        module.forward(call.x)
    finally:
        del vars(module)[mode]
    return attention_over_map(kept[-1], call.x, call.output - call.x)


def _read_observed_map(module: nn.Module, call: Call) -> Attention:
    return attention_over_map(observed_weights(module, call.x), call.x, call.output - call.x)


def _read_observed_tokens(module: nn.Module, call: Call) -> Attention:
    weights = observed_weights(module, *call.arguments, **call.options)
    return _over_tokens(weights, call, call.x, call.output)


def _read_multi_head(module: nn.MultiheadAttention, call: Call) -> Attention:
    bound = inspect.signature(module.forward).bind(*call.arguments, **call.options)
    bound.arguments.update(need_weights=True, average_attn_weights=False)
    weights: Any = module.forward(*bound.args, **bound.kwargs)[1]
    x, output = call.x, call.output[0]
    if weights.dim() == 3:  # without a batch axis
        weights, x, output = weights.unsqueeze(0), x.unsqueeze(0), output.unsqueeze(0)
    elif not module.batch_first:
        x, output = x.transpose(0, 1), output.transpose(0, 1)
    return _over_tokens(weights, call, x, output)


def _over_tokens(weights: Tensor, call: Call, x: Tensor, output: Tensor | None) -> Attention:
    if weights.dim() == 3:
        weights = weights.unsqueeze(1)
    return attention_over_tokens(weights, x, output, extra=call.extra, image=call.image)


def _read_swin_block(module: Any, call: Call) -> Attention:
    """The Swin block of timm shifts its map, pads it to whole windows, cut row by row, and attends within each.

    The same is done to the numbers of the positions, with -1 for padding. The weights of images come one after the
    other, each with its windows in order.
    """
    x = call.x  # (N, H, W, C)
    kept: list[Tensor] = []
    handle = module.attn.register_forward_pre_hook(
        lambda attention, arguments, options: kept.append(observed_weights(attention, *arguments, **options)),
        with_kwargs=True,
    )
    try:
        added = module._attn(module.norm1(x))
    finally:
        handle.remove()
    images, height, width, _ = x.shape
    (down, across), (rows, columns) = module.shift_size, module.window_size
    numbers = torch.arange(height * width, device=x.device).view(height, width).roll((-down, -across), (0, 1))
    padded = nn.functional.pad(numbers, (0, -width % columns, 0, -height % rows), value=-1)
    windows = padded.unfold(0, rows, rows).unfold(1, columns, columns).reshape(-1, rows * columns)
    weights = kept[-1].unflatten(0, (images, len(windows)))  # (N, W, heads, P', K')
    grid = (height, width)
    return Attention(weights, grid, grid, 0, windows, x.flatten(1, 2).clone(), added.flatten(1, 2))


def _logits(module: nn.Module) -> nn.Module | None:
    """The convolution from which mmcv's ContextBlock (and GCNet's own) or timm's GlobalContext take their softmax."""
    for name in ("conv_mask", "conv_attn"):
        layer = getattr(module, name, None)
        if isinstance(layer, nn.Conv2d) and layer.out_channels == 1:
            return layer
    return None


def _pairwise(module: nn.Module) -> Any:
    """The method that computes the weights of mmcv's non-local blocks, or None."""
    mode = getattr(module, "mode", None)
    is_one = isinstance(mode, str) and hasattr(module, "g") and hasattr(module, "conv_out")
    return getattr(module, mode, None) if is_one and isinstance(mode, str) else None


_BY_NAME: dict[str, Reader] = {
    "timm.layers.attention.Attention": _read_observed_tokens,  # ViT, DeiT and their kin
    "timm.layers.attention.AttentionRope": _read_observed_tokens,
    "timm.models.eva.EvaAttention": _read_observed_tokens,
    "timm.models.beit.Attention": _read_observed_tokens,
    "timm.models.vision_transformer_relpos.RelPosAttention": _read_observed_tokens,
    "timm.layers.non_local_attn.NonLocalAttn": _read_observed_map,
    "timm.models.swin_transformer.SwinTransformerBlock": _read_swin_block,
}
