"""Each part in which mmdet 1 differs from mmdet 2, by hand or by an obvious loop in float64.

The formulas are those of mmdet 1: core/anchor/anchor_generator.py, core/bbox/transforms.py, core/mask/mask_target.py,
ops/roi_align, roi_extractors/single_level.py, datasets/transforms.py and mask_heads/fcn_mask_head.py.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from gcnet.models.create import create_model
from gcnet.models.detector.anchors import PixelAnchors
from gcnet.models.detector.box_coder import PixelBoxCoder
from gcnet.models.detector.conventions import CONVENTIONS
from gcnet.models.detector.coordinates import PIXELS
from gcnet.models.detector.losses import cropped_mask_targets
from gcnet.models.detector.mask_pasting import paste_masks_in_pixels
from gcnet.models.detector.roi_heads import MMDet1RoIHeads
from gcnet.models.detector.roi_pool import PixelRoIPool
from gcnet.models.detector.transform import PixelTransform, ScaledShape
from models.detector.test_parts import MEAN, STD, bilinear

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def test_anchors_are_rounded_and_centered_on_the_pixels_of_a_cell() -> None:
    """Stride 4: 32 pixels around 1.5, from -14 to 17; 45.25 x 22.63 from -20.6 to 23.6 and from -9.3 to 12.3."""
    anchors = PixelAnchors(((32.0,), (256.0,)), ((0.5, 1.0, 2.0),) * 2, (4, 32))
    found = anchors(
        ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)]), [torch.zeros(1, 1, 16, 24), torch.zeros(1, 1, 2, 3)]
    )
    assert found[0][:3].tolist() == [[-21, -9, 24, 12], [-14, -14, 17, 17], [-9, -21, 12, 24]]
    assert found[0][3 * (24 + 2) + 1].tolist() == [8 - 14, 4 - 14, 8 + 17, 4 + 17]
    assert found[0][3 * 16 * 24 + 1].tolist() == [15.5 - 127.5, 15.5 - 127.5, 15.5 + 127.5, 15.5 + 127.5]


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


def pooled_by_loop(feature: np.ndarray, box: list[float], stride: int, side: int) -> np.ndarray:
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
            expected = pooled_by_loop(maps[str(level)][0, channel].numpy(), boxes[row], 4 * 2**level, 5)
            np.testing.assert_allclose(pooled[row, channel].numpy(), expected, atol=1e-9)


def test_boxes_are_scaled_by_one_factor_from_pixel_to_pixel_and_back() -> None:
    """31 x 41 pixels to a short side of 60: factor 60 / 31, though the width becomes 79 and not 79.35."""
    transform = PixelTransform(60, 100, MEAN, STD).eval()
    target = {"boxes": torch.tensor([[2.0, 3.0, 10.0, 15.0], [0.0, 0.0, 41.0, 31.0]])}
    batch, (moved,) = transform([torch.rand(3, 31, 41)], [target])
    (shape,) = batch.image_sizes
    scale = 60 / 31
    assert shape == (60, 79) and shape.scale == scale
    expected = [[2 * scale, 3 * scale, 9 * scale, 14 * scale], [0.0, 0.0, 40 * scale, 30 * scale]]
    torch.testing.assert_close(moved["boxes"], torch.tensor(expected))
    (back,) = transform.postprocess([{"boxes": moved["boxes"]}], [shape], [(31, 41)])
    torch.testing.assert_close(back["boxes"], target["boxes"])


def test_boxes_of_targets_are_clipped_to_the_last_pixel() -> None:
    transform = PixelTransform(62, 100, MEAN, STD).train()
    _, (moved,) = transform([torch.rand(3, 31, 41)], [{"boxes": torch.tensor([[30.0, -4.0, 90.0, 99.0]])}])
    assert moved["boxes"].tolist() == [[60.0, 0.0, 81.0, 61.0]]


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


def test_mask_targets_are_whole_pixels_resized_as_by_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    masks = (torch.rand(2, 37, 41, generator=torch.Generator().manual_seed(1)) > 0.5).to(torch.uint8)
    boxes = torch.tensor([[3.9, 4.2, 30.5, 36.0], [0.0, 0.0, 40.0, 36.0], [10.3, 11, 14.1, 13.9], [5.5, 6.5, 5.9, 6.9]])
    indices = torch.tensor([1, 0, 1, 0])
    found = cropped_mask_targets(masks, boxes, indices, 7)
    for target, box, index in zip(found, boxes.tolist(), indices.tolist(), strict=True):
        left, top, right, bottom = (int(value) for value in box)
        crop = masks[index].numpy()[top : bottom + 1, left : right + 1]
        assert np.array_equal(target.numpy(), cv2.resize(crop, (7, 7), interpolation=cv2.INTER_LINEAR))
    assert set(found.unique().tolist()) == {0.0, 1.0}


def heads() -> Any:
    model = create_model("mask_rcnn_scenes_resnet", num_classes=2, detector={"conventions": "mmdet1"})
    assert isinstance(model.roi_heads, MMDet1RoIHeads)
    return model.roi_heads


@pytest.mark.parametrize(("scale", "count"), [(1.0, 2), (4.0, 1)])
def test_detections_are_suppressed_by_their_pixels_in_the_original_image(scale: float, count: int) -> None:
    """Unscaled, 9 pixels wide with 6 in common, IoU 6 / 12; divided by 4, 3 wide with 2.25 in common, 2.25 / 3.75."""
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [3.0, 0.0, 11.0, 8.0]])
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.2, 0.8, 0.0]])
    stage = heads()
    stage.nms_thresh = 0.55
    kept, _, _ = stage._suppress(boxes[:, None].expand(-1, 3, 4), scores, ScaledShape((16, 16), scale))
    assert len(kept) == count


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "cascade_mask_rcnn"])
def test_overlaps_and_borders_of_proposals_and_rois_are_those_of_pixels(kind: str) -> None:
    rpn, stage = (getattr(CONVENTIONS["mmdet1"], part)[kind].keywords for part in ("rpn", "roi_heads"))
    assert rpn["coordinates"] is stage["coordinates"] is PIXELS


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["faster_rcnn", "mask_rcnn", "cascade_mask_rcnn"])
def test_a_detector_trains_every_parameter_and_predicts_boxes_inside_images(detector: str) -> None:
    torch.manual_seed(0)
    model = create_model(f"{detector}_scenes_resnet", num_classes=3, detector={"conventions": "mmdet1"}).train()
    images = [torch.rand(3, 64, 64), torch.rand(3, 48, 60)]
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 10:30, 10:40] = 1
    targets = [
        {"boxes": torch.tensor([[10.0, 10.0, 40.0, 30.0]]), "labels": torch.tensor([2]), "masks": masks},
        {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "masks": torch.zeros(0, 48, 60, dtype=torch.uint8),
        },
    ]
    losses = model(images, targets)
    assert all(bool(loss.isfinite()) for loss in losses.values())
    sum(losses.values()).backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    model.eval()
    for stage in getattr(model.roi_heads, "stages", [model.roi_heads]):
        stage.score_thresh = 0.0
    with torch.no_grad():
        for image, found in zip(images, model(images), strict=True):
            height, width = image.shape[1:]
            assert len(found["boxes"]) > 0
            assert (found["boxes"] >= 0).all()
            # Sides are rounded to pixels and boxes are not: the last pixel may end half a pixel later.
            assert (found["boxes"][:, 2] <= width + 0.5).all() and (found["boxes"][:, 3] <= height + 0.5).all()
            assert "masks" not in found or found["masks"].shape[-2:] == (height, width)
