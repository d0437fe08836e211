"""The end of a residual block in training on a GPU: batch norm, term, shortcut and ReLU in one Triton kernel."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gcnet.ops.batch_norm import InputGradient, NormStatistics, output_plus
from gcnet.ops.double_backward import derived_gradients, must_derive
from gcnet.ops.triton_check import DTYPES, usable


def can_norm_add_relu(z: Tensor, shortcut: Tensor, weight: Tensor) -> bool:
    """Whether `norm_add_relu` supports these arguments, and its kernels are usable (`gcnet.ops.triton_check`).

    Args:
        z: input of the batch norm, (N, C, H, W).
        shortcut: of the residual block, (N, C, H, W).
        weight: gamma, (C,).
    """
    if not z.is_cuda or not _fits(z, shortcut, weight):
        return False
    return usable("batch norm with shortcut", z.device, z.dtype)


def norm_add_relu(
    z: Float[Tensor, "n c h w"],
    statistics: NormStatistics,
    bias: Float[Tensor, " c"],
    term: Float[Tensor, "n c"],
    shortcut: Float[Tensor, "n c h w"],
) -> Float[Tensor, "n c h w"]:
    """Return `relu(alpha (z - mean) + bias + term + shortcut)`, with gradients of first and second order.

    One kernel reads both maps and writes the output. Saved for the backward pass: `z`, the output and vectors.

    Args:
        z: input of the batch norm, contiguous or channels-last, in float32, bfloat16 or float16.
        statistics: from `batch_statistics` of `z`, or `fixed_statistics`.
        bias: beta, float32.
        term: added to each sample and channel, float32.
        shortcut: in the dtype of `z`.

    Returns:
        The output, in the dtype and memory format of `z`.
    """
    return _NormAddReLU.apply(z, statistics.alpha, statistics.mean, bias, term, shortcut, statistics.upstream)


def _fits(z: Tensor, shortcut: Tensor, weight: Tensor) -> bool:
    dense = z.is_contiguous() or z.is_contiguous(memory_format=torch.channels_last)
    same = shortcut.shape == z.shape and shortcut.dtype == z.dtype
    in_range = len(z) < 2**16 and z.numel() < 2**31 * max(len(z), 1)  # the grid of programs, and offsets of 32 bits
    return same and dense and in_range and z.dtype in DTYPES and weight.dtype == torch.float32


class _NormAddReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, alpha: Tensor, mean: Tensor, bias: Tensor, term: Tensor, shortcut: Tensor, upstream: Any
    ) -> Tensor:
        from gcnet.ops.triton_norm_kernels import output

        out = output(z, shortcut, alpha, term + (bias - alpha * mean))
        ctx.save_for_backward(z, alpha, mean, bias, term, out)
        ctx.upstream = upstream
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients; if the statistics are part of the graph, that of `z` is left to them."""
        from gcnet.ops.triton_norm_kernels import gradient_sums, input_gradient

        *arguments, out = ctx.saved_tensors
        z, alpha, mean, _, _ = arguments
        (grad,) = gradients
        if must_derive(gradients):
            masked = torch.where(out <= 0, 0, grad)
            found = derived_gradients(output_plus, arguments, ctx.needs_input_grad[:5], (masked,))
            return *found, masked, None
        masked, along, of_term = gradient_sums(grad, out, z, mean)
        of_z: Tensor | None = None
        if ctx.upstream is not None:
            ctx.upstream.put(InputGradient(masked, input_gradient))
        elif ctx.needs_input_grad[0]:
            of_z = masked * alpha.to(z.dtype)[:, None, None]
        total = of_term.sum(0)
        return of_z, along.sum(0), -alpha * total, total, of_term, masked, None
