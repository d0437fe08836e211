"""Box coders of mmdet, by the formulas of their boxes."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from gcnet.models.detector.box_coder import ClampedBoxCoder, PixelBoxCoder


def test_a_box_shrinks_no_more_than_it_may_grow() -> None:
    limit = math.log(1000 / 16)
    box = [torch.tensor([[10.0, 20.0, 74.0, 52.0]])]  # 64 x 32 around (42, 36)
    for weights in ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)):
        deltas = torch.tensor([[0.0, 0.0, -9.0 * weights[2], 9.0 * weights[3]]])
        found = ClampedBoxCoder(weights).decode(deltas, box)[0, 0]
        width, height = 64 * math.exp(-limit), 32 * math.exp(limit)
        expected = torch.tensor([42 - width / 2, 36 - height / 2, 42 + width / 2, 36 + height / 2])
        torch.testing.assert_close(found, expected)
        assert BoxCoder(weights).decode(deltas, box)[0, 0, 2] - 42 < 0.01, "torchvision has no lower bound"


def test_within_the_bounds_the_coder_is_torchvisions() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(7, 2, generator=generator).repeat(1, 2) * 50 + torch.tensor([0.0, 0.0, 13.0, 17.0])
    deltas = torch.randn(7, 12, generator=generator)
    weights = (10.0, 10.0, 5.0, 5.0)
    assert torch.equal(ClampedBoxCoder(weights).decode(deltas, [boxes]), BoxCoder(weights).decode(deltas, [boxes]))


WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def boxes_of_pixels(count: int, seed: int) -> Tensor:
    """Boxes as first and last pixel, with fractions, in float64."""
    corners = 60 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sides = 50 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return torch.cat([corners, corners + sides], dim=1)


def test_widths_of_the_box_coder_count_the_last_pixel() -> None:
    proposals, objects = boxes_of_pixels(11, 0), boxes_of_pixels(11, 2)
    coder = PixelBoxCoder(WEIGHTS)
    found = coder.encode_single(objects, proposals)
    for deltas, proposal, target in zip(found.tolist(), proposals.tolist(), objects.tolist(), strict=True):
        pw, ph, gw, gh = (box[i + 2] - box[i] + 1 for box in (proposal, target) for i in (0, 1))
        dx = ((target[0] + target[2]) * 0.5 - (proposal[0] + proposal[2]) * 0.5) / pw
        dy = ((target[1] + target[3]) * 0.5 - (proposal[1] + proposal[3]) * 0.5) / ph
        expected = [10 * dx, 10 * dy, 5 * math.log(gw / pw), 5 * math.log(gh / ph)]
        assert deltas == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(coder.decode(found, [proposals])[:, 0], objects)


def test_boxes_are_decoded_with_half_a_pixel_at_each_corner_and_clamped_ratios() -> None:
    proposals = boxes_of_pixels(9, 4)
    deltas = torch.randn(9, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 4
    deltas[:, 6] = 40.0  # far above the largest ratio, log(1000 / 16)
    found = PixelBoxCoder(WEIGHTS).decode(deltas, [proposals])
    limit = abs(math.log(16 / 1000))
    for row, (left, top, right, bottom) in enumerate(proposals.tolist()):
        for number in range(2):
            dx, dy, dw, dh = (deltas[row, 4 * number + i].item() / WEIGHTS[i] for i in range(4))
            width = (right - left + 1) * math.exp(min(max(dw, -limit), limit))
            height = (bottom - top + 1) * math.exp(min(max(dh, -limit), limit))
            x = (left + right) * 0.5 + (right - left + 1) * dx
            y = (top + bottom) * 0.5 + (bottom - top + 1) * dy
            expected = [x - width * 0.5 + 0.5, y - height * 0.5 + 0.5, x + width * 0.5 - 0.5, y + height * 0.5 - 0.5]
            assert found[row, number].tolist() == pytest.approx(expected, abs=1e-9)
