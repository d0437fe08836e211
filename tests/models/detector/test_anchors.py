"""Anchors of each implementation, by hand."""

import math

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from gcnet.models.detector.anchors import FixedStrideAnchors, PixelAnchors
from gcnet.models.detector.conventions import CONVENTIONS


def test_anchors_are_not_rounded_and_lie_at_the_configured_stride() -> None:
    anchors = FixedStrideAnchors(((32.0,), (512.0,)), ((0.5, 1.0, 2.0),) * 2, (4, 64))
    # 800 pixels are 13 cells at stride 64 (61 would be 800 // 13).
    maps = [torch.zeros(2, 1, 200, 336), torch.zeros(2, 1, 13, 21)]
    found, same = anchors(ImageList(torch.zeros(2, 3, 800, 1344), [(800, 1333), (800, 1300)]), maps)
    assert found is same or torch.equal(found, same)
    wide, tall = 32 * math.sqrt(2), 32 / math.sqrt(2)  # height over width is 1/2: 45.25 x 22.63
    torch.testing.assert_close(found[0], torch.tensor([-wide / 2, -tall / 2, wide / 2, tall / 2]))
    torch.testing.assert_close(found[1], torch.tensor([-16.0, -16.0, 16.0, 16.0]))
    torch.testing.assert_close(found[2], torch.tensor([-tall / 2, -wide / 2, tall / 2, wide / 2]))
    torch.testing.assert_close(found[3 * (336 + 2) + 1], torch.tensor([8 - 16.0, 4 - 16.0, 8 + 16.0, 4 + 16.0]))
    torch.testing.assert_close(
        found[-2], torch.tensor([1280.0, 768.0, 1280.0, 768.0]) + 256 * torch.tensor([-1, -1, 1, 1])
    )


@pytest.mark.parametrize("name", CONVENTIONS)
def test_anchors_are_float32_on_features_of_half_precision(name: str) -> None:
    anchors = CONVENTIONS[name].anchors((8.0, 16.0), (4, 8))
    images, sides = ImageList(torch.zeros(1, 3, 8, 1336), [(8, 1336)]), ((2, 334), (1, 167))
    single, half = (
        anchors(images, [torch.zeros(1, 1, *side, dtype=dtype) for side in sides])[0]
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert single.dtype == torch.float32
    assert torch.equal(half, single)


def test_torchvisions_anchors_are_rounded() -> None:
    sides = (32.0, 64.0, 128.0, 256.0, 512.0)
    rounded, exact = (
        CONVENTIONS[name].anchors(sides, (4, 8, 16, 32, 64)).cell_anchors[0] for name in ("torchvision", "mmdet")
    )
    assert rounded[0].tolist() == [-23.0, -11.0, 23.0, 11.0]
    assert (exact[0] - rounded[0]).abs().max() > 0.3


def test_anchors_are_rounded_and_centered_on_the_pixels_of_a_cell() -> None:
    """Stride 4: 32 pixels around 1.5, from -14 to 17; 45.25 x 22.63 from -20.6 to 23.6 and from -9.3 to 12.3."""
    anchors = PixelAnchors(((32.0,), (256.0,)), ((0.5, 1.0, 2.0),) * 2, (4, 32))
    found = anchors(
        ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)]), [torch.zeros(1, 1, 16, 24), torch.zeros(1, 1, 2, 3)]
    )
    assert found[0][:3].tolist() == [[-21, -9, 24, 12], [-14, -14, 17, 17], [-9, -21, 12, 24]]
    assert found[0][3 * (24 + 2) + 1].tolist() == [8 - 14, 4 - 14, 8 + 17, 4 + 17]
    assert found[0][3 * 16 * 24 + 1].tolist() == [15.5 - 127.5, 15.5 - 127.5, 15.5 + 127.5, 15.5 + 127.5]
