"""Masks packed into bits."""

import numpy as np
import pytest
import torch

from gcnet.ops.bits import pack_bits, take_bits, unpack_bits


@pytest.mark.parametrize("width", [1, 7, 8, 9, 31, 64])
def test_bits_are_numpys_and_unpack_to_the_same_masks(width: int) -> None:
    masks = torch.randint(0, 2, (3, 5, width), dtype=torch.uint8)
    bits = pack_bits(masks)
    assert np.array_equal(bits.numpy(), np.packbits(masks.numpy(), axis=-1))
    assert torch.equal(unpack_bits(bits, width), masks)


def test_single_columns_are_taken_without_the_others() -> None:
    masks = torch.randint(0, 2, (2, 3, 29), dtype=torch.uint8)
    columns = torch.tensor([28, 0, 7, 7, 8])
    assert torch.equal(take_bits(pack_bits(masks), columns), masks[..., columns])


def test_no_masks_pack_to_nothing() -> None:
    assert unpack_bits(pack_bits(torch.zeros(0, 4, 9, dtype=torch.uint8)), 9).shape == (0, 4, 9)
