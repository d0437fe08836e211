"""Attention pooling as Triton kernels: one read of the map forward; one read and one write of it backward.

A program holds a tile, all channels of a few positions, in registers, and uses it twice: for logits and for the sum. It
walks its share of a sample's positions with a running softmax (arXiv 1805.02867); `_merge_kernel` joins the shares. How
the work is cut depends on shapes alone and nothing is added atomically, so results repeat to the bit.

Importing this module imports Triton and registers `gcnet::attention_pool` and its gradient with PyTorch.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import SymInt, Tensor
from torch.library import register_autograd, triton_op, wrap_triton
from torch.utils.flop_counter import register_flop_formula

from gcnet.ops.double_backward import derived_gradients

# Chosen on paper, and so that what is compiled for sm_80 and sm_90 spills no registers up to 2048 channels; only the
# gradient spills a few, for contiguous maps whose positions are not a multiple of 16.
TILE = 8192  # numbers, 32 a thread
WARPS = 8
PROGRAMS = 256  # about two for each multiprocessor of a large GPU: enough reads at once, few sums to merge
jit: Any = triton.jit  # what it returns is not typed
LOWEST = tl.constexpr(-3.4028234663852886e38)  # finite: infinity minus itself is not a number


@jit
@no_type_check
def _pool_kernel(
    x_ptr,
    weight_ptr,
    sums_ptr,
    peaks_ptr,
    masses_ptr,
    x_stride_sample,
    x_stride_channel,
    x_stride_position,
    channels,
    positions,
    tiles_per_split,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One split: largest logit m, `sum_j exp(logit_j - m)` and `sum_j exp(logit_j - m) x_j` over its positions."""
    sample, split = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    channel, step = tl.arange(0, BLOCK_CHANNELS), tl.arange(0, BLOCK_POSITIONS)
    if WIDE:
        channel = channel.to(tl.int64)
    real = channel < channels
    weight = tl.load(weight_ptr + channel, mask=real, other=0).to(tl.float32)
    offset = (channel * x_stride_channel)[:, None] + (step * x_stride_position)[None, :]

    peak, mass = tl.full((), LOWEST, tl.float32), tl.full((), 0, tl.float32)
    sums = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    first = split * tiles_per_split
    for index in range(first, tl.minimum(first + tiles_per_split, tl.cdiv(positions, BLOCK_POSITIONS))):
        start = index * BLOCK_POSITIONS
        inside = step < positions - start
        tile = sample * x_stride_sample + start * x_stride_position
        x = tl.load(x_ptr + tile + offset, mask=real[:, None] & inside[None, :], other=0).to(tl.float32)
        logits = tl.where(inside, tl.sum(x * weight[:, None], axis=0), float("-inf"))
        higher = tl.maximum(peak, tl.max(logits, axis=0))
        fade, shares = tl.exp(peak - higher), tl.exp(logits - higher)
        mass = mass * fade + tl.sum(shares, axis=0)
        sums = sums * fade + tl.sum(x * shares[None, :], axis=1)
        peak = higher

    row = sample * tl.num_programs(1) + split
    tl.store(sums_ptr + row * channels + channel, sums, mask=real)
    tl.store(peaks_ptr + row, peak)
    tl.store(masses_ptr + row, mass)


@jit
@no_type_check
def _merge_kernel(
    sums_ptr,
    peaks_ptr,
    masses_ptr,
    context_ptr,
    peak_ptr,
    mass_ptr,
    channels,
    splits,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """All splits of a sample, a few channels: context, largest logit, and the softmax's denominator against it."""
    sample, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    real = channel < channels
    peak, mass = tl.full((), LOWEST, tl.float32), tl.full((), 0, tl.float32)
    sums = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    for first in range(0, splits, BLOCK_SPLITS):
        split = first + tl.arange(0, BLOCK_SPLITS)
        inside = split < splits
        row = sample * splits + split
        peaks = tl.load(peaks_ptr + row, mask=inside, other=float("-inf"))
        masses = tl.load(masses_ptr + row, mask=inside, other=0)
        parts = tl.load(
            sums_ptr + row[:, None] * channels + channel[None, :], mask=inside[:, None] & real[None, :], other=0
        )
        higher = tl.maximum(peak, tl.max(peaks, axis=0))
        fade, shares = tl.exp(peak - higher), tl.exp(peaks - higher)
        mass = mass * fade + tl.sum(shares * masses, axis=0)
        sums = sums * fade + tl.sum(shares[:, None] * parts, axis=0)
        peak = higher
    tl.store(context_ptr + sample * channels + channel, sums / mass, mask=real)
    tl.store(peak_ptr + sample, peak)  # the same from every block of channels
    tl.store(mass_ptr + sample, mass)


@jit
@no_type_check
def _gradient_kernel(
    x_ptr,
    weight_ptr,
    context_ptr,
    peak_ptr,
    mass_ptr,
    grad_ptr,
    grad_x_ptr,
    grad_weights_ptr,
    x_stride_sample,
    x_stride_channel,
    x_stride_position,
    channels,
    positions,
    tiles_per_split,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One split, with `d_j = p_j (x_j - c) . g`: writes `p_j g + d_j w` at each position, and `sum_j d_j x_j`."""
    sample, split = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    channel, step = tl.arange(0, BLOCK_CHANNELS), tl.arange(0, BLOCK_POSITIONS)
    if WIDE:
        channel = channel.to(tl.int64)
    real = channel < channels
    weight = tl.load(weight_ptr + channel, mask=real, other=0).to(tl.float32)
    grad = tl.load(grad_ptr + sample * channels + channel, mask=real, other=0)
    context = tl.load(context_ptr + sample * channels + channel, mask=real, other=0)
    peak, mass = tl.load(peak_ptr + sample), tl.load(mass_ptr + sample)
    offset = (channel * x_stride_channel)[:, None] + (step * x_stride_position)[None, :]

    level = tl.sum(context * grad, axis=0)
    grad_weight = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    first = split * tiles_per_split
    for index in range(first, tl.minimum(first + tiles_per_split, tl.cdiv(positions, BLOCK_POSITIONS))):
        start = index * BLOCK_POSITIONS
        mask = real[:, None] & (step < positions - start)[None, :]
        tile = sample * x_stride_sample + start * x_stride_position
        x = tl.load(x_ptr + tile + offset, mask=mask, other=0).to(tl.float32)
        attention = tl.exp(tl.sum(x * weight[:, None], axis=0) - peak) / mass
        grad_logits = attention * (tl.sum(x * grad[:, None], axis=0) - level)
        grad_x = attention[None, :] * grad[:, None] + grad_logits[None, :] * weight[:, None]
        tl.store(grad_x_ptr + tile + offset, grad_x, mask=mask)
        grad_weight += tl.sum(x * grad_logits[None, :], axis=1)

    row = sample * tl.num_programs(1) + split
    tl.store(grad_weights_ptr + row * channels + channel, grad_weight, mask=real)


def plan(x: Tensor, channels: int) -> tuple[int | SymInt, int | SymInt, dict[str, Any]]:
    """Split the work of one call into programs.

    Args:
        x: feature map (N, C, P).
        channels: C.

    Returns:
        Programs per sample (0 without work), tiles per program, and the compile-time constants of a tile.
    """
    samples, _, positions = x.shape
    width = max(1 << (channels - 1).bit_length(), 16)
    height = TILE // width
    tiles = (positions + height - 1) // height
    programs = torch.sym_max(PROGRAMS // torch.sym_max(samples, 1), 1)
    each = torch.sym_max((tiles + programs - 1) // programs, 1)
    wide = bool(channels * x.stride(1) + height * x.stride(2) >= 2**31)  # offsets in a tile need 64 bits
    tile = {"BLOCK_CHANNELS": width, "BLOCK_POSITIONS": height, "WIDE": wide, "num_warps": WARPS}
    return (tiles + each - 1) // each, each, tile


@triton_op("gcnet::attention_pool", mutates_args=())
def pool(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Attention pooling by `_pool_kernel` and `_merge_kernel`.

    Args:
        x: feature map (N, C, P), any strides.
        weight: key weight (C,), contiguous.
        bias: key bias, unused since it cancels in the softmax.

    Returns:
        Context (N, C), largest logit (N,) and softmax denominator (N,) of each sample, in float32.
    """
    samples, channels, positions = x.shape[0], int(weight.shape[0]), x.shape[2]
    splits, each, tile = plan(x, channels)
    sums = x.new_empty((samples, splits, channels), dtype=torch.float32)
    peaks, masses = (x.new_empty((samples, splits), dtype=torch.float32) for _ in range(2))
    context, peak, mass = _results(x, weight, bias)
    with torch.cuda.device_of(x):
        wrap_triton(_pool_kernel)[(samples, splits)](
            x, weight, sums, peaks, masses, *x.stride(), channels, positions, each, **tile
        )
        wrap_triton(_merge_kernel)[(samples, (channels + 31) // 32)](
            sums, peaks, masses, context, peak, mass, channels, splits, BLOCK_SPLITS=64, BLOCK_CHANNELS=32
        )
    return context, peak, mass


@pool.register_fake
def _results(x: Tensor, weight: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    context = x.new_empty((x.shape[0], weight.shape[0]), dtype=torch.float32)
    peak, mass = (x.new_empty(x.shape[0], dtype=torch.float32) for _ in range(2))
    return context, peak, mass


@triton_op("gcnet::attention_pool_backward", mutates_args=())
def gradient(
    grad: Tensor, x: Tensor, weight: Tensor, context: Tensor, peak: Tensor, mass: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient of `pool` by `_gradient_kernel`.

    Args:
        grad: gradient of the context (N, C).
        x: feature map (N, C, P).
        weight: key weight (C,).
        context: context of the forward pass (N, C).
        peak: largest logit of each sample (N,).
        mass: softmax denominator of each sample (N,).

    Returns:
        Gradients of `x` (N, C, P) and of `weight` (C,).
    """
    samples, channels, positions = x.shape[0], int(weight.shape[0]), x.shape[2]
    grad_x = torch.empty_like(x)
    if grad_x.stride() != x.stride():  # a map with gaps; both are walked with the same strides
        x, grad_x = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    splits, each, tile = plan(x, channels)
    grad_weights = x.new_empty((samples, splits, channels), dtype=torch.float32)
    tensors = (x, weight, context, peak, mass, grad.contiguous(), grad_x, grad_weights)
    with torch.cuda.device_of(x):
        wrap_triton(_gradient_kernel)[(samples, splits)](*tensors, *x.stride(), channels, positions, each, **tile)
    return grad_x, grad_weights.sum((0, 1)).to(weight.dtype)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _definition(x: Tensor, weight: Tensor) -> Tensor:
    x, weight = x.float(), weight.float()
    attention = torch.einsum("ncp,c->np", x, weight).softmax(1)
    return torch.einsum("ncp,np->nc", x, attention)


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
    x, weight, bias, *output = ctx.saved_tensors
    if torch.is_grad_enabled():  # Double backward: autograd derives it from the plain operations.
        of_x, of_weight = derived_gradients(_definition, (x, weight), ctx.needs_input_grad[:2], (grad,))
        return of_x, of_weight, torch.zeros_like(bias)
    return *gradient(grad, x, weight, *output), torch.zeros_like(bias)


register_autograd("gcnet::attention_pool", _backward, setup_context=_save)


@register_flop_formula(torch.ops.gcnet.attention_pool)
def _flops(x: torch.Size, *_: Any, **__: Any) -> int:
    """As the two matrix products of the plain layers: logits and sum."""
    return 4 * x.numel()


@register_flop_formula(torch.ops.gcnet.attention_pool_backward)
def _gradient_flops(_: Any, x: torch.Size, *__: Any, **___: Any) -> int:
    """As the plain layers' four; that the logits are computed anew is not counted."""
    return 8 * x.numel()
