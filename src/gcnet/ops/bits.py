"""Binary masks packed to eight pixels per byte along the width, as by `numpy.packbits`."""

import torch
from jaxtyping import Int, UInt8
from torch import Tensor


def unpack_bits(bits: UInt8[Tensor, "*rest bytes"], width: int) -> UInt8[Tensor, "*rest width"]:
    """Unpack masks.

    Args:
        bits: masks with eight pixels per byte along the width.
        width: of the masks in pixels.

    Returns:
        The masks, of 0 and 1.
    """
    return take_bits(bits, torch.arange(width, device=bits.device))


def take_bits(bits: UInt8[Tensor, "*rest bytes"], columns: Int[Tensor, " width"]) -> UInt8[Tensor, "*rest width"]:
    """Unpack selected columns of masks, without unpacking the others.

    Args:
        bits: masks with eight pixels per byte along the width.
        columns: indices of the columns in pixels.

    Returns:
        The columns, of 0 and 1.
    """
    shifts = (7 - columns % 8).to(torch.uint8)
    return bits[..., columns // 8].bitwise_right_shift_(shifts).bitwise_and_(1)
