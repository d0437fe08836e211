"""The stand-in for mmcv's compiled operators computes what loops and identities say."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oracle.original import mmcv_ext

ROI_ALIGN = {"spatial_scale": 0.5, "sampling_ratio": 0, "pool_mode": 1, "aligned": True}
SQUARE = ROI_ALIGN | {"aligned_height": 2, "aligned_width": 2}
NONE = torch.empty(0)


def overlap(first: Tensor, second: Tensor) -> float:
    sides = torch.minimum(first[2:], second[2:]) - torch.maximum(first[:2], second[:2])
    common = sides.clamp(min=0).prod()
    return float(common / (sum((box[2:] - box[:2]).prod() for box in (first, second)) - common))


def test_suppression_keeps_the_best_of_overlapping_boxes() -> None:
    corners = torch.rand(61, 2) * 10
    boxes, scores = torch.cat([corners, corners + 3 + 4 * torch.rand(61, 2)], dim=1), torch.rand(61)
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[index], boxes[other]) <= 0.4 for other in kept):
            kept.append(index)
    assert 2 < len(kept) < 61
    assert mmcv_ext.nms(boxes, scores, iou_threshold=0.4, offset=0).tolist() == kept


def test_a_pooled_cell_of_a_plane_is_the_mean_of_its_pixels() -> None:
    plane = (torch.arange(11.0)[:, None] + 3 * torch.arange(13.0)).repeat(1, 3, 1, 1)
    rois = torch.tensor([[0.0, 4.0, 2.0, 12.0, 14.0]])  # columns 2 to 6 and rows 1 to 7 of the map, cells of 2 x 3
    output = torch.empty(1, 3, 2, 2)
    mmcv_ext.roi_align_forward(plane, rois, output, NONE, NONE, **SQUARE)
    expected = plane[0, :, 1:7, 2:6].unflatten(1, (2, 3)).unflatten(3, (2, 2)).mean((2, 4))
    torch.testing.assert_close(output[0], expected)


def test_the_gradient_of_pooling_is_its_transpose() -> None:
    features, weights = torch.rand(2, 3, 11, 13), torch.rand(5, 3, 2, 2)
    corners = torch.rand(5, 2) * 9
    rois = torch.cat([torch.tensor([[0.0], [1.0], [1.0], [0.0], [1.0]]), corners, corners + 7], dim=1)
    output, gradient = torch.empty(5, 3, 2, 2), torch.zeros_like(features)
    mmcv_ext.roi_align_forward(features, rois, output, NONE, NONE, **SQUARE)
    mmcv_ext.roi_align_backward(weights, rois, NONE, NONE, gradient, **SQUARE)
    torch.testing.assert_close((gradient * features).sum(), (weights * output).sum())


def test_a_deformable_convolution_without_offsets_is_a_convolution() -> None:
    features, weight, output = torch.rand(1, 4, 11, 13), torch.rand(6, 2, 3, 3), torch.empty(1, 6, 6, 7)
    sides = {"dH": 2, "dW": 2, "padH": 1, "padW": 1, "dilationH": 1, "dilationW": 1}
    mmcv_ext.deform_conv_forward(features, weight, torch.zeros(1, 18, 6, 7), output, NONE, NONE, **sides)
    torch.testing.assert_close(output, F.conv2d(features, weight, stride=2, padding=1, groups=2))


def test_a_modulated_deformable_convolution_scales_its_samples() -> None:
    features, weight, bias = torch.rand(1, 4, 11, 13), torch.rand(6, 2, 3, 3), torch.rand(6)
    output = torch.empty(1, 6, 6, 7)
    offset, halves = torch.zeros(1, 18, 6, 7), torch.full((1, 9, 6, 7), 0.5)
    sides = {"stride_h": 2, "stride_w": 2, "pad_h": 1, "pad_w": 1, "dilation_h": 1, "dilation_w": 1}
    mmcv_ext.modulated_deform_conv_forward(
        features, weight, bias, NONE, offset, halves, output, NONE, **sides, with_bias=True
    )
    torch.testing.assert_close(output, F.conv2d(features, weight / 2, bias, stride=2, padding=1, groups=2))


def test_other_operators_exist_and_raise() -> None:
    operators = mmcv_ext._Operators("mmcv._ext")
    with pytest.raises(NotImplementedError, match="softnms"):
        operators.softnms(torch.rand(3, 4))
