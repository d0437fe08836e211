"""Each part in which mmdet's conventions differ from torchvision's, by hand or by an obvious loop."""

import math

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms
from torchvision.ops.poolers import LevelMapper

from gcnet.models.detector.anchors import FixedStrideAnchors
from gcnet.models.detector.box_coder import ClampedBoxCoder
from gcnet.models.detector.conventions import CONVENTIONS
from gcnet.models.detector.mask_pasting import paste_masks
from gcnet.models.detector.roi_pool import AlignedRoIPool, roi_levels
from gcnet.models.detector.transform import RoundedTransform, resized_shape, resizing_scale

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


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


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),  # 1066.67, which torchvision cuts to 1066
        ((426, 640), (800, 1202)),  # 1201.88
        ((333, 1000), (444, 1333)),  # bounded by the long side: 443.9
        ((1, 10_000), (1, 1333)),  # never less than a pixel
        ((800, 1333), (800, 1333)),
    ],
)
def test_sides_are_rounded_to_the_nearest_pixel(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_shape(*size, resizing_scale(*size, min_size=800, max_size=1333)) == expected


def test_resized_images_equal_opencv_bit_for_bit() -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    transform = RoundedTransform(61, 101, MEAN, STD).eval()
    batch, _ = transform([torch.from_numpy(pixels).permute(2, 0, 1).float() / 255])
    height, width = batch.image_sizes[0]
    assert (height, width) == (61, 87)
    assert batch.tensors.shape == (1, 3, 64, 96)
    assert not batch.tensors[..., height:, :].any() and not batch.tensors[..., width:].any(), "padded with zeros"
    levels = (
        batch.tensors[0, :, :height, :width] * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    ) * 255
    assert (levels - levels.round()).abs().max() < 1e-3
    expected = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(levels.round().permute(1, 2, 0).numpy(), expected)


def test_boxes_and_masks_follow_their_image() -> None:
    transform = RoundedTransform(60, 100, MEAN, STD).eval()
    target = {"boxes": torch.tensor([[2.0, 3.0, 10.0, 15.0]]), "masks": torch.zeros(1, 31, 41, dtype=torch.uint8)}
    target["masks"][0, 3:15, 2:10] = 1
    batch, (moved,) = transform([torch.rand(3, 31, 41)], [target])
    height, width = batch.image_sizes[0]
    assert (height, width) == (60, 79)
    x, y = width / 41, height / 31
    torch.testing.assert_close(moved["boxes"], torch.tensor([[2 * x, 3 * y, 10 * x, 15 * y]]))
    assert moved["masks"].shape == (1, 64, 96), "padded with zeros, as the image"
    assert not moved["masks"][:, height:].any() and not moved["masks"][:, :, width:].any()
    assert abs(int(moved["masks"].sum()) - 12 * 8 * x * y) < 40
    assert target["boxes"].tolist() == [[2.0, 3.0, 10.0, 15.0]], "the target given is left alone"
    (back,) = transform.postprocess([{"boxes": moved["boxes"]}], [(height, width)], [(31, 41)])
    torch.testing.assert_close(back["boxes"], target["boxes"])


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


def test_boxes_scaled_back_first_are_suppressed_alike() -> None:
    """mmdet suppresses in the original image, here it is done before: overlaps do not depend on the scale."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(300, 2, generator=generator) * 90
    boxes = torch.cat([corners, corners + 3 + 40 * torch.rand(300, 2, generator=generator)], dim=1)
    scores, labels = torch.rand(300, generator=generator), torch.randint(3, (300,), generator=generator)
    scale = torch.tensor([1.667, 1.664, 1.667, 1.664])
    assert torch.equal(batched_nms(boxes, scores, labels, 0.5), batched_nms(boxes / scale, scores, labels, 0.5))
