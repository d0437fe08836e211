"""`relu(alpha (z - mean) + bias + term + shortcut)` and its gradients as Triton kernels.

Forward: two reads and one write of a map. Backward: three reads and one write for the gradient of the sum, with the
sums over positions; two reads and one write for the gradient of `z`. Nothing is added atomically, so results repeat to
the bit.

Importing this module imports Triton and registers the operators `gcnet::norm_add_relu`, `..._backward` and
`..._input_gradient` with PyTorch.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

_TILE = 4096  # numbers, 16 a thread
_WARPS = 8
_PROGRAMS = 1024  # about eight for each multiprocessor of a large GPU
_jit: Any = triton.jit  # what it returns is not typed


@_jit
@no_type_check
def _output_kernel(
    z_ptr,
    shortcut_ptr,
    alpha_ptr,
    shift_ptr,
    out_ptr,
    stride_sample,
    stride_channel,
    stride_position,
    channels,
    positions,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr,
):
    """One tile of `relu(alpha z + shift + shortcut)`; NaN stays NaN."""
    sample = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    position = tl.program_id(0) * BLOCK_POSITIONS + tl.arange(0, BLOCK_POSITIONS)
    real = channel < channels
    mask = real[:, None] & (position < positions)[None, :]
    offset = sample * stride_sample + channel[:, None] * stride_channel + position[None, :] * stride_position
    alpha = tl.load(alpha_ptr + channel, mask=real, other=0)
    shift = tl.load(shift_ptr + sample * channels + channel, mask=real, other=0)
    z = tl.load(z_ptr + offset, mask=mask, other=0).to(tl.float32)
    shortcut = tl.load(shortcut_ptr + offset, mask=mask, other=0).to(tl.float32)
    out = z * alpha[:, None] + shift[:, None] + shortcut
    tl.store(out_ptr + offset, tl.where(out < 0, 0, out), mask=mask)


@_jit
@no_type_check
def _sums_kernel(
    grad_ptr,
    out_ptr,
    z_ptr,
    mean_ptr,
    masked_ptr,
    along_ptr,
    total_ptr,
    stride_sample,
    stride_channel,
    stride_position,
    channels,
    positions,
    tiles_per_split,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr,
):
    """One split of the positions: the gradient g before the ReLU, `sum g (z - mean)` and `sum g`."""
    sample, split = tl.program_id(2).to(tl.int64), tl.program_id(0)
    channel, step = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS), tl.arange(0, BLOCK_POSITIONS)
    real = channel < channels
    mean = tl.load(mean_ptr + channel, mask=real, other=0)
    row = sample * stride_sample + channel[:, None] * stride_channel
    along, total = tl.zeros((BLOCK_CHANNELS,), tl.float32), tl.zeros((BLOCK_CHANNELS,), tl.float32)
    first = split * tiles_per_split
    for index in range(first, tl.minimum(first + tiles_per_split, tl.cdiv(positions, BLOCK_POSITIONS))):
        position = index * BLOCK_POSITIONS + step
        mask = real[:, None] & (position < positions)[None, :]
        offset = row + position[None, :] * stride_position
        grad = tl.load(grad_ptr + offset, mask=mask, other=0)
        out = tl.load(out_ptr + offset, mask=mask, other=0).to(tl.float32)
        z = tl.load(z_ptr + offset, mask=mask, other=0).to(tl.float32)
        masked = tl.where(out <= 0, 0, grad.to(tl.float32))
        tl.store(masked_ptr + offset, masked, mask=mask)
        along += tl.sum(masked * (z - mean[:, None]), axis=1)
        total += tl.sum(masked, axis=1)
    target = (sample * tl.num_programs(0) + split) * channels + channel
    tl.store(along_ptr + target, along, mask=real)
    tl.store(total_ptr + target, total, mask=real)


@_jit
@no_type_check
def _input_gradient_kernel(
    grad_ptr,
    z_ptr,
    scale_ptr,
    slope_ptr,
    offset_ptr,
    out_ptr,
    stride_sample,
    stride_channel,
    stride_position,
    channels,
    positions,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_POSITIONS: tl.constexpr,
):
    """One tile of `scale g + slope z + offset`."""
    sample = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    position = tl.program_id(0) * BLOCK_POSITIONS + tl.arange(0, BLOCK_POSITIONS)
    real = channel < channels
    mask = real[:, None] & (position < positions)[None, :]
    place = sample * stride_sample + channel[:, None] * stride_channel + position[None, :] * stride_position
    scale = tl.load(scale_ptr + channel, mask=real, other=0)
    slope = tl.load(slope_ptr + channel, mask=real, other=0)
    offset = tl.load(offset_ptr + channel, mask=real, other=0)
    grad = tl.load(grad_ptr + place, mask=mask, other=0).to(tl.float32)
    z = tl.load(z_ptr + place, mask=mask, other=0).to(tl.float32)
    tl.store(out_ptr + place, grad * scale[:, None] + z * slope[:, None] + offset[:, None], mask=mask)


def tile_of(z: Tensor) -> dict[str, Any]:
    """Return the compile-time constants of a tile, long in the direction in which the map is contiguous.

    Args:
        z: feature map (N, C, P).
    """
    _, channels, positions = z.shape
    if z.stride(2) == 1:
        width = min(256, 1 << (positions - 1).bit_length())
        return {"BLOCK_CHANNELS": _TILE // width, "BLOCK_POSITIONS": width, "num_warps": _WARPS}
    height = min(128, 1 << (channels - 1).bit_length())
    return {"BLOCK_CHANNELS": height, "BLOCK_POSITIONS": _TILE // height, "num_warps": _WARPS}


def _blocks(z: Tensor, tile: dict[str, Any]) -> tuple[int, int]:
    """Numbers of tiles along positions and channels."""
    return -(-z.shape[2] // tile["BLOCK_POSITIONS"]), -(-z.shape[1] // tile["BLOCK_CHANNELS"])


def _same_strides(tensor: Tensor, z: Tensor) -> Tensor:
    """The map itself if it lies in memory as `z` does, or else a copy that does."""
    return tensor if tensor.stride() == z.stride() else torch.empty_like(z).copy_(tensor)


@custom_op("gcnet::norm_add_relu", mutates_args=())
def output(z: Tensor, shortcut: Tensor, alpha: Tensor, shift: Tensor) -> Tensor:
    """Return `relu(alpha z + shift + shortcut)` by `_output_kernel`, in the dtype and memory format of `z`.

    Args:
        z: input of the batch norm (N, C, H, W), contiguous or channels-last, fewer than 2^31 values in a sample.
        shortcut: of the shape and dtype of `z`.
        alpha: (C,), float32.
        shift: (N, C), float32.
    """
    out = torch.empty_like(z)
    if not z.numel():
        return out
    flat = z.flatten(2)
    tile = tile_of(flat)
    tensors = z, _same_strides(shortcut, z), alpha.contiguous(), shift.contiguous(), out
    with torch.cuda.device_of(z):
        _output_kernel[(*_blocks(flat, tile), len(z))](*tensors, *flat.stride(), *flat.shape[1:], **tile)
    return out


@output.register_fake
def _fake_output(z: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(z)


@custom_op("gcnet::norm_add_relu_backward", mutates_args=())
def gradient_sums(grad: Tensor, out: Tensor, z: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `output` by `_sums_kernel`.

    Args:
        grad: gradient of the output (N, C, H, W).
        out: the output.
        z: input of the batch norm.
        mean: (C,), float32.

    Returns:
        The gradient g of the sum before the ReLU (N, C, H, W), in the memory format of `z`; `sum g (z - mean)` and
        `sum g` over positions (N, C), in float32.
    """
    masked, along, total = _fake_gradient_sums(grad, out, z, mean)
    if not z.numel():
        return masked, along.zero_(), total.zero_()
    flat = z.flatten(2)
    tile = tile_of(flat)
    tiles, blocks = _blocks(flat, tile)
    each = -(-tiles // max(1, _PROGRAMS // (len(z) * blocks)))
    splits = -(-tiles // each)
    parts = along.new_empty((2, len(z), splits, z.shape[1]))
    tensors = _same_strides(grad, z), _same_strides(out, z), z, mean.contiguous(), masked, *parts
    with torch.cuda.device_of(z):
        _sums_kernel[(splits, blocks, len(z))](*tensors, *flat.stride(), *flat.shape[1:], each, **tile)
    torch.sum(parts[0], 1, out=along)
    torch.sum(parts[1], 1, out=total)
    return masked, along, total


@gradient_sums.register_fake
def _fake_gradient_sums(_: Tensor, __: Tensor, z: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    along, total = (z.new_empty(z.shape[:2], dtype=mean.dtype) for _ in range(2))
    return torch.empty_like(z), along, total


@custom_op("gcnet::norm_add_relu_input_gradient", mutates_args=())
def input_gradient(grad: Tensor, z: Tensor, scale: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """Return `scale grad + slope z + offset` by `_input_gradient_kernel`, in the dtype and memory format of `z`.

    Args:
        grad: gradient of the sum before the ReLU (N, C, H, W).
        z: input of the batch norm.
        scale: (C,), float32.
        slope: (C,), float32.
        offset: (C,), float32.
    """
    out = torch.empty_like(z)
    if not z.numel():
        return out
    flat = z.flatten(2)
    tile = tile_of(flat)
    tensors = _same_strides(grad, z), z, scale.contiguous(), slope.contiguous(), offset.contiguous(), out
    with torch.cuda.device_of(z):
        _input_gradient_kernel[(*_blocks(flat, tile), len(z))](*tensors, *flat.stride(), *flat.shape[1:], **tile)
    return out


@input_gradient.register_fake
def _fake_input_gradient(_: Tensor, z: Tensor, *__: Tensor) -> Tensor:
    return torch.empty_like(z)
