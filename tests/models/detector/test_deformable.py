"""Deformable convolution: the convolution it was made of at the start, and an obvious loop when its samples move."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from gcnet.errors import UserError
from gcnet.insertion import insert
from gcnet.models.detector.deformable import DeformableConv2d, make_deformable
from gcnet.models.registry import build_host


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_new_one_is_the_convolution_it_was_made_of(stride: int, groups: int) -> None:
    plain = nn.Conv2d(8, 12, 3, stride, padding=1, groups=groups, bias=False)
    deformable = DeformableConv2d(plain)
    x = torch.randn(2, 8, 11, 13)
    torch.testing.assert_close(deformable(x), plain(x), atol=1e-6, rtol=1e-5)
    assert set(deformable.state_dict()) == {"weight", "conv_offset.weight", "conv_offset.bias"}
    assert deformable.conv_offset.weight.shape == (18, 8, 3, 3)


def sample(feature: np.ndarray, y: float, x: float) -> float:
    """Bilinear, zero outside."""
    padded, top, left = np.pad(feature, 2), math.floor(y), math.floor(x)
    if not (-1 < y < feature.shape[0] and -1 < x < feature.shape[1]):
        return 0.0
    corners = padded[top + 2 : top + 4, left + 2 : left + 4]
    return float(np.array([1 - y + top, y - top]) @ corners @ np.array([1 - x + left, x - left]))


def test_moved_samples_give_what_a_loop_gives() -> None:
    torch.manual_seed(0)
    module = DeformableConv2d(nn.Conv2d(2, 3, 3, stride=2, padding=1)).double()
    nn.init.normal_(module.conv_offset.weight, std=0.3)
    nn.init.normal_(module.conv_offset.bias, std=0.5)
    x = torch.randn(1, 2, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        found, offsets = module(x)[0], module.conv_offset(x)[0].numpy()
    weight, bias, pixels = module.weight.detach().numpy(), module.bias.detach().numpy(), x[0].numpy()
    expected = np.zeros((3, 3, 4))
    for out in range(3):
        for row in range(3):
            for column in range(4):
                total = bias[out]
                for tap in range(9):
                    y = 2 * row - 1 + tap // 3 + offsets[2 * tap, row, column]
                    z = 2 * column - 1 + tap % 3 + offsets[2 * tap + 1, row, column]
                    for channel in range(2):
                        total += weight[out, channel, tap // 3, tap % 3] * sample(pixels[channel], y, z)
                expected[out, row, column] = total
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)


def test_under_autocast_it_is_near_float32() -> None:
    torch.manual_seed(0)
    layer, x = DeformableConv2d(nn.Conv2d(6, 6, 3, padding=1)), torch.randn(2, 6, 9, 11)
    nn.init.normal_(layer.conv_offset.weight, std=0.1)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_they_go_into_every_bottleneck_of_c3_to_c5_and_leave_a_network_as_it_was() -> None:
    model = build_host("resnet50", 3).eval()
    images = torch.rand(1, 3, 64, 64)
    names = set(model.state_dict())
    with torch.no_grad():
        before = model(images)
        assert make_deformable(model) == 4 + 6 + 3
        torch.testing.assert_close(model(images), before, atol=1e-5, rtol=1e-4)
        insert(model, "gc", blocks=(-1,))
        torch.testing.assert_close(model(images), before, atol=1e-5, rtol=1e-4)
    assert names < set(model.state_dict())
    assert not isinstance(model.layer1[0].conv2, DeformableConv2d)


def test_a_network_of_basic_blocks_is_refused() -> None:
    with pytest.raises(UserError, match="ResNet has none"):
        make_deformable(build_host("resnet18", 3))
