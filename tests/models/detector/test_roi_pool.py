"""RoIAlign of mmdet, by a loop over sampling points."""

import math

import numpy as np
import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from gcnet.models.detector.roi_pool import AlignedRoIPool, OffCenterRoIPool, PixelRoIPool, roi_levels


def bilinear(feature: np.ndarray, y: float, x: float) -> float:
    """The map at a point between pixel centers 0, 1, ...; zero more than a pixel outside, as RoIAlign has it."""
    height, width = feature.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = (0.0 if top == height - 1 else y - top), (0.0 if left == width - 1 else x - left)
    return float(
        feature[top, left] * (1 - down) * (1 - across)
        + feature[top, right] * (1 - down) * across
        + feature[bottom, left] * down * (1 - across)
        + feature[bottom, right] * down * across
    )


def pooled_by_loop(feature: np.ndarray, box: list[float], stride: int, side: int) -> np.ndarray:
    left, top, right, bottom = (value / stride - 0.5 for value in box)
    height, width = (bottom - top) / side, (right - left) / side
    rows, columns = math.ceil(height), math.ceil(width)
    result = np.zeros((side, side))
    for i in range(side):
        for j in range(side):
            values = [
                bilinear(feature, top + height * (i + (a + 0.5) / rows), left + width * (j + (b + 0.5) / columns))
                for a in range(rows)
                for b in range(columns)
            ]
            result[i, j] = np.mean(values)
    return result


def test_pooling_is_aligned_and_takes_as_many_samples_as_a_cell_has_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = {str(level): torch.randn(2, 3, 61 // 2**level, 53 // 2**level, generator=generator) for level in range(2)}
    boxes = [
        torch.tensor([[3.3, 5.1, 61.0, 77.7], [0.0, 0.0, 190.0, 230.0]]),
        torch.tensor([[10.0, 9.0, 17.0, 14.0]]),
        torch.zeros(0, 4),
    ]
    pooled = AlignedRoIPool(("0", "1"), 5, (4, 8))(maps, boxes, [(244, 212)] * 3)
    assert roi_levels(torch.cat(boxes), 2).tolist() == [0, 1, 0]
    for row, (image, level, box) in enumerate(((0, 0, boxes[0][0]), (0, 1, boxes[0][1]), (1, 0, boxes[1][0]))):
        for channel in range(3):
            expected = pooled_by_loop(maps[str(level)][image, channel].double().numpy(), box.tolist(), 4 * 2**level, 5)
            np.testing.assert_allclose(pooled[row, channel].numpy(), expected, atol=1e-5)


def test_the_level_changes_where_the_root_of_the_area_doubles() -> None:
    sides = torch.tensor([1.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 5000.0])
    regions = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    assert roi_levels(regions, 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_level_follows_the_finest_stride_as_torchvisions_does() -> None:
    sides = torch.tensor([5.0, 27.9, 28.0, 55.9, 56.0, 300.0])
    regions = torch.stack([torch.zeros(6), torch.zeros(6), sides, sides], dim=1)
    assert roi_levels(regions, 3, finest_stride=1).tolist() == [0, 0, 1, 1, 2, 2]
    for stride, exponent in ((1, 0), (2, 1), (4, 2)):
        reference = LevelMapper(exponent, exponent + 2)([regions])
        assert torch.equal(roi_levels(regions, 3, finest_stride=stride), reference)


def test_half_precision_maps_are_pooled_at_exact_positions() -> None:
    ramp = torch.arange(512.0).repeat(8, 1)[None, None]  # the value is the column
    pool, boxes = AlignedRoIPool(("0",), 1, (4,)), [torch.tensor([[1001.0, 8.0, 1003.0, 10.0]])]
    found = pool({"0": ramp.to(torch.bfloat16)}, boxes, [(32, 2048)])
    assert found.dtype == torch.bfloat16
    assert abs(found.item() - (1002 / 4 - 0.5)) <= 1, "as near as bfloat16 comes to 250"


def test_gradients_reach_the_map_that_was_pooled_and_no_other() -> None:
    maps = {str(level): torch.randn(1, 2, 32 // 2**level, 32 // 2**level, requires_grad=True) for level in range(2)}
    AlignedRoIPool(("0", "1"), 3, (4, 8))(maps, [torch.tensor([[8.0, 8.0, 40.0, 40.0]])], [(128, 128)]).sum().backward()
    assert maps["0"].grad is not None and maps["0"].grad.abs().sum() > 0
    assert maps["1"].grad is not None and maps["1"].grad.abs().sum() == 0


def pooled_pixels_by_loop(feature: np.ndarray, box: list[float], stride: int, side: int) -> np.ndarray:
    left, top = box[0] / stride, box[1] / stride
    width, height = max((box[2] + 1) / stride - left, 0) / side, max((box[3] + 1) / stride - top, 0) / side
    result = np.zeros((side, side))
    for i in range(side):
        for j in range(side):
            samples = [
                bilinear(feature, top + height * (i + (a + 0.5) / 2), left + width * (j + (b + 0.5) / 2))
                for a in range(2)
                for b in range(2)
            ]
            result[i, j] = np.mean(samples)
    return result


def test_pooling_ends_after_the_last_pixel_and_takes_four_samples_of_a_cell() -> None:
    """The second box has the side at which the level changes; the last one is smaller than a cell of its map."""
    generator = torch.Generator().manual_seed(0)
    maps = {
        str(level): torch.randn(1, 2, 61 // 2**level, 53 // 2**level, generator=generator, dtype=torch.float64)
        for level in range(2)
    }
    boxes = [[3.3, 5.1, 60.0, 77.7], [0.0, 0.0, 111.0, 111.0], [10.0, 9.0, 10.5, 9.2]]
    pooled = PixelRoIPool(("0", "1"), 5, (4, 8))(maps, [torch.tensor(boxes, dtype=torch.float64)], [(244, 212)])
    for row, level in enumerate((0, 1, 0)):
        for channel in range(2):
            expected = pooled_pixels_by_loop(maps[str(level)][0, channel].numpy(), boxes[row], 4 * 2**level, 5)
            np.testing.assert_allclose(pooled[row, channel].numpy(), expected, atol=1e-9)


def pyramid() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {str(level): torch.randn(2, 3, 64 // 2**level, 64 // 2**level, generator=generator) for level in range(3)}


def some_boxes() -> torch.Tensor:
    sides = torch.tensor([0.0, 3.0, 55.0, 112.0, 150.0, 230.0])
    return torch.stack([sides / 9, sides / 7, sides / 9 + sides, sides / 7 + sides * 0.9], dim=1)


@pytest.mark.parametrize("kind", [AlignedRoIPool, PixelRoIPool, OffCenterRoIPool])
def test_pooling_on_every_level_is_the_same(kind: type[AlignedRoIPool]) -> None:
    pool, boxes = kind(("0", "1", "2"), 5, (4, 8, 16)), some_boxes()
    expected = pool(pyramid(), [boxes[:2], boxes[2:]], [(256, 256)] * 2)
    assert torch.equal(pool.pool_on_every_level(pyramid(), boxes, torch.tensor([0, 0, 1, 1, 1, 1])), expected)


def test_off_center_pooling_is_torchvisions() -> None:
    reference = MultiScaleRoIAlign(["0", "1", "2"], 5, 2)
    boxes, shapes = [some_boxes(), some_boxes()[:1]], [(256, 256)] * 2
    pool = OffCenterRoIPool(("0", "1", "2"), 5, (4, 8, 16))
    assert torch.equal(pool(pyramid(), boxes, shapes), reference(pyramid(), boxes, shapes))
