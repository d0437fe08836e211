"""Attention pooling: one weighted mean of all positions (GCNet, arXiv 1904.11492, eq. 4, the sum over j).

Shapes: map (N, C, P), weight (C,) and bias () of the key, logits and weights (N, P), context (N, C). Every product
reads the map as it lies in memory, contiguous or channels-last, without a copy.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gcnet.ops.double_backward import derived_gradients, must_derive
from gcnet.ops.triton_pool import attention_pool_triton, can_pool


def attention_logits(
    x: Float[Tensor, "n c p"], weight: Float[Tensor, "c"], bias: Float[Tensor, ""] | None
) -> Float[Tensor, "n p"]:
    """Return the attention logits `weight . x_j + bias` of every position j.

    Args:
        x: feature map, flattened over positions.
        weight: key weight.
        bias: key bias; None for 0.
    """
    rows = x.transpose(1, 2)
    if not torch.compiler.is_exporting() and rows.is_contiguous():  # the exported program takes either layout
        logits = torch.mm(weight.unsqueeze(0), rows.reshape(-1, weight.shape[0]).t()).view(rows.shape[:2])
    else:
        logits = torch.bmm(weight.expand(x.shape[0], 1, -1), x).squeeze(1)
    return logits if bias is None else logits + bias


def attention_weights(logits: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """Return the softmax of `logits` over positions, in at least float32: half-precision logits of any finite size stay
    finite.
    """
    return torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def weighted_sum(x: Float[Tensor, "n c p"], weights: Float[Tensor, "n p"]) -> Float[Tensor, "n c"]:
    """Return `sum_j weights_j x_j`, in the dtype of `x`.

    Args:
        x: feature map, flattened over positions.
        weights: attention weights of the positions.
    """
    return torch.bmm(weights.to(x.dtype).unsqueeze(1), x.transpose(1, 2)).squeeze(1)


def attention_pool_reference(
    x: Float[Tensor, "n c p"], weight: Float[Tensor, "c"], bias: Float[Tensor, ""] | None
) -> Float[Tensor, "n c"]:
    """Return `attention_pool` with autograd's own gradient, for compiled and exported programs.

    Args:
        x: feature map, flattened over positions.
        weight: key weight.
        bias: key bias; None for 0.
    """
    return weighted_sum(x, attention_weights(attention_logits(x, weight, bias)))


def attention_pool(
    x: Float[Tensor, "n c p"], weight: Float[Tensor, "c"], bias: Float[Tensor, ""] | None
) -> Float[Tensor, "n c"]:
    """Attention pooling: `sum_j softmax_j(weight . x_j + bias) x_j`.

    The custom gradient reads the map twice and writes it once; of the forward pass it saves only the map, the attention
    weights and vectors. On a GPU it runs in Triton kernels where Triton is available.

    Args:
        x: feature map, flattened over positions; contiguous or channels-last.
        weight: key weight.
        bias: key bias, which the softmax cancels; None for 0.

    Returns:
        The context, in the dtype of `x`, also under autocast.

    Reference:
        GCNet, arXiv 1904.11492, eq. 4.
    """
    if _autocasts(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            return attention_pool(x, weight, bias)
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    if can_pool(x):
        return attention_pool_triton(x, weight, weight.new_zeros(()) if bias is None else bias)
    if _derives_itself():
        return attention_pool_reference(x, weight, bias)
    return _AttentionPool.apply(x, weight, weight.new_zeros(()) if bias is None else bias)[0]


def attention_pool_with_map(
    x: Float[Tensor, "n c *s"], weight: Float[Tensor, "c"], bias: Float[Tensor, ""]
) -> tuple[Float[Tensor, "n c *s"], Float[Tensor, "n c"]]:
    """Return the map and its attention pooling, for a block that also adds to the map.

    The gradient of the returned map is added to that of pooling in the pass that writes it.

    Args:
        x: feature map; contiguous or channels-last.
        weight: key weight.
        bias: key bias.

    Returns:
        `x` and its context.
    """
    if _autocasts(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            return attention_pool_with_map(x, weight, bias)
    has_own_gradient = not (_derives_itself() or torch.autograd.forward_ad._current_level >= 0)
    if not has_own_gradient or not x.requires_grad or can_pool(x):
        return x, attention_pool(x.flatten(2), weight, bias)
    return _AttentionPoolWithMap.apply(x, weight.to(x.dtype), bias.to(x.dtype))


def _derives_itself() -> bool:
    """Whether no gradient is needed, or it is derived from the operations: in programs and in torch.func."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not torch.is_grad_enabled():
        return True
    return torch._C._are_functorch_transforms_active()


def _autocasts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


class _AttentionPool(torch.autograd.Function):
    """With p the attention, c the context and g its gradient: `q_j = p_j (x_j . g - c . g)` is that of logit j, and
    `dx_j = p_j g + q_j w`, `dw = sum_j q_j x_j`, `db = sum_j q_j`.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        attention = attention_weights(attention_logits(x, weight, bias))
        return weighted_sum(x, attention), attention

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, *output)
        ctx.save_for_forward(*inputs, *output)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None]:
        x, weight, bias, context, attention = ctx.saved_for_forward
        dx, dweight, dbias = (
            torch.zeros_like(value) if tangent is None else tangent
            for tangent, value in zip(tangents, (x, weight, bias), strict=True)
        )
        logits = attention_logits(x, dweight, dbias) + attention_logits(dx, weight, torch.zeros_like(bias))
        centered = logits - (attention * logits).sum(1, keepdim=True)
        return weighted_sum(x, attention * centered) + weighted_sum(dx, attention), None

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, context, attention = ctx.saved_tensors
        grad, needed = gradients[0], ctx.needs_input_grad
        if must_derive(gradients):  # Double backward: autograd derives it from the reference.
            return tuple(derived_gradients(attention_pool_reference, (x, weight, bias), needed, (grad,)))
        logits = _logit_gradients(x, context, attention, grad)
        return (
            _outer_products(x, grad, attention.to(x.dtype), weight, logits.to(x.dtype)) if needed[0] else None,
            weighted_sum(x, logits.to(x.dtype)).sum(0) if needed[1] else None,
            logits.sum().to(bias.dtype) if needed[2] else None,
        )


class _AttentionPoolWithMap(torch.autograd.Function):
    """`_AttentionPool` whose first output is its map, with gradient d: `dx_j = d_j + p_j g + q_j w`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(2)
        attention = attention_weights(attention_logits(flat, weight, bias))
        context = weighted_sum(flat, attention)
        ctx.save_for_backward(x, weight, bias, context, attention)
        return x, context

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, context, attention = ctx.saved_tensors
        of_map, grad = gradients
        if must_derive(gradients):
            return tuple(derived_gradients(_map_and_pool, (x, weight, bias), ctx.needs_input_grad, gradients))
        flat = x.flatten(2)
        logits = _logit_gradients(flat, context, attention, grad)
        in_map = logits.to(x.dtype)
        products = _outer_products(flat, grad, attention.to(x.dtype), weight, in_map, added=of_map.flatten(2))
        return products.view_as(x), weighted_sum(flat, in_map).sum(0), logits.sum().to(bias.dtype)


def _map_and_pool(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return x.view_as(x), attention_pool_reference(x.flatten(2), weight, bias)


def _logit_gradients(x: Tensor, context: Tensor, attention: Tensor, grad: Tensor) -> Float[Tensor, "n p"]:
    along = torch.bmm(grad.unsqueeze(1), x).squeeze(1)
    return attention * (along - torch.linalg.vecdot(context, grad).unsqueeze(1))


def _outer_products(
    x: Tensor, grad: Tensor, attention: Tensor, weight: Tensor, logits: Tensor, *, added: Tensor | None = None
) -> Tensor:
    """`added_j + attention_j grad + logits_j weight` at every position j, in the memory format of `x`."""
    if x.transpose(1, 2).is_contiguous():  # (N, P, C)
        factors = attention.unsqueeze(2), grad.unsqueeze(1)
        rows = factors[0] * factors[1] if added is None else torch.addcmul(added.transpose(1, 2), *factors)
        return rows.addcmul_(logits.unsqueeze(2), weight).transpose(1, 2)
    factors = grad.unsqueeze(2), attention.unsqueeze(1)
    maps = factors[0] * factors[1] if added is None else torch.addcmul(added, *factors)
    return maps.addcmul_(weight.unsqueeze(1), logits.unsqueeze(1))
