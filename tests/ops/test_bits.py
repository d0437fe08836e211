"""Masks packed into bits."""

import numpy as np
import pytest
import torch

from gcnet.ops.bits import take_bits, unpack_bits


def packed(masks: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.packbits(masks.numpy(), axis=-1))


@pytest.mark.parametrize("width", [1, 7, 8, 9, 31, 64])
def test_masks_that_numpy_packed_are_unpacked(width: int) -> None:
    masks = torch.randint(0, 2, (3, 5, width), dtype=torch.uint8)
    assert torch.equal(unpack_bits(packed(masks), width), masks)


def test_single_columns_are_taken_without_the_others() -> None:
    masks = torch.randint(0, 2, (2, 3, 29), dtype=torch.uint8)
    columns = torch.tensor([28, 0, 7, 7, 8])
    assert torch.equal(take_bits(packed(masks), columns), masks[..., columns])


def test_no_masks_pack_to_nothing() -> None:
    assert unpack_bits(packed(torch.zeros(0, 4, 9, dtype=torch.uint8)), 9).shape == (0, 4, 9)
