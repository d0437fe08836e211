"""Pasted masks, pixel by pixel."""

import math

import numpy as np
import torch

from gcnet.models.detector.mask_pasting import paste_masks, paste_masks_in_pixels
from models.detector.test_roi_pool import bilinear


def pasted_by_loop(mask: np.ndarray, box: list[float], height: int, width: int) -> np.ndarray:
    side = mask.shape[0]
    padded = np.pad(mask, 1)
    result = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            y = (row + 0.5 - box[1]) / (box[3] - box[1]) * side - 0.5
            x = (column + 0.5 - box[0]) / (box[2] - box[0]) * side - 0.5
            if -1 < y < side and -1 < x < side:
                top, left = math.floor(y), math.floor(x)
                corners = padded[top + 1 : top + 3, left + 1 : left + 3]
                down, across = np.array([1 - y + top, y - top]), np.array([1 - x + left, x - left])
                result[row, column] = down @ corners @ across
    return result


def test_masks_are_pasted_at_pixel_centers_without_rounding_the_box() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(4, 1, 7, 7, generator=generator)
    boxes = torch.tensor(
        [[3.3, 4.7, 20.1, 11.2], [-5.0, -3.0, 9.0, 40.0], [0.2, 0.3, 0.4, 0.5], [22.0, 3.0, 40.0, 9.0]]
    )
    pasted = paste_masks(masks, boxes, 17, 23)
    for found, mask, box in zip(pasted, masks, boxes, strict=True):
        np.testing.assert_allclose(found[0], pasted_by_loop(mask[0].numpy(), box.tolist(), 17, 23), atol=1e-5)


def test_a_mask_of_a_box_without_area_is_empty() -> None:
    assert not paste_masks(torch.ones(2, 1, 5, 5), torch.tensor([[3.0, 3, 3, 9], [5, 7, 9, 7]]), 11, 13).any()
    assert paste_masks(torch.ones(0, 1, 5, 5), torch.zeros(0, 4), 11, 13).shape == (0, 1, 11, 13)


def test_masks_are_pasted_into_the_whole_pixels_of_their_box() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 1, 5, 5, generator=generator, dtype=torch.float64)
    boxes = torch.tensor([[3.9, 4.2, 12.8, 9.1], [0.0, 0.0, 22.0, 16.0], [7.0, 7.0, 7.9, 7.2]], dtype=torch.float64)
    pasted = paste_masks_in_pixels(masks, boxes, 17, 23)
    for found, mask, box in zip(pasted, masks, boxes.tolist(), strict=True):
        left, top, right, bottom = (int(value) for value in box)
        width, height = right - left + 1, bottom - top + 1
        expected = np.zeros((17, 23))
        for row in range(height):
            for column in range(width):
                y, x = (row + 0.5) * 5 / height - 0.5, (column + 0.5) * 5 / width - 0.5
                expected[top + row, left + column] = bilinear(mask[0].numpy(), min(max(y, 0), 4), min(max(x, 0), 4))
        np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-9)
