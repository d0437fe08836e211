"""Binary masks with eight pixels per byte, along the width; the first pixel is the highest bit, as `numpy.packbits`."""

import torch
from jaxtyping import Int, UInt8
from torch import Tensor


def pack_bits(masks: UInt8[Tensor, "*rest width"]) -> UInt8[Tensor, "*rest bytes"]:
    """Pack masks of 0 and 1; the last byte of a row is filled up with zeros."""
    width = masks.shape[-1]
    bytes_per_row = -(-width // 8)
    padded = masks.new_zeros(*masks.shape[:-1], bytes_per_row * 8)
    padded[..., :width] = masks
    values = 1 << torch.arange(7, -1, -1, dtype=torch.uint8, device=masks.device)  # (8,)
    return (padded.unflatten(-1, (bytes_per_row, 8)) * values).sum(-1, dtype=torch.uint8)


def unpack_bits(bits: UInt8[Tensor, "*rest bytes"], width: int) -> UInt8[Tensor, "*rest width"]:
    """The masks of 0 and 1 that `pack_bits` packed, of this width in pixels."""
    return take_bits(bits, torch.arange(width, device=bits.device))


def take_bits(bits: UInt8[Tensor, "*rest bytes"], columns: Int[Tensor, " width"]) -> UInt8[Tensor, "*rest width"]:
    """Some columns of pixels of packed masks, as 0 and 1, without unpacking the others."""
    shifts = (7 - columns % 8).to(torch.uint8)
    return bits[..., columns // 8].bitwise_right_shift_(shifts).bitwise_and_(1)
