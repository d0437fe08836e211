"""Transforms of each implementation: sizes, images, boxes and masks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from gcnet.models.detector.transform import (
    PackedMasksTransform,
    PixelTransform,
    RoundedTransform,
    resize_masks,
    resized_shape,
    resizing_scale,
)
from models.detector.test_roi_heads import SIDE, packed, target

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


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


@pytest.mark.parametrize(
    ("old", "new"), [((31, 41), (17, 23)), ((31, 41), (97, 101)), ((1, 1), (5, 3)), ((13, 8), (13, 8))]
)
def test_masks_are_resized_as_interpolate_does_packed_or_not(old: tuple[int, int], new: tuple[int, int]) -> None:
    masks = torch.randint(0, 2, (3, *old), dtype=torch.uint8)
    expected = F.interpolate(masks[:, None].float(), new)[:, 0].byte()
    for name, value in (("masks", masks), ("mask_bits", packed(masks))):
        found = {"boxes": torch.zeros(3, 4), name: value}
        resize_masks(found, old, new)
        assert torch.equal(found["masks"], expected)
        assert "mask_bits" not in found


@pytest.mark.parametrize("kind", [PackedMasksTransform, RoundedTransform])
def test_packed_masks_are_transformed_like_others(kind: type[GeneralizedRCNNTransform]) -> None:
    transform = kind(20, 50, [0.5] * 3, [0.2] * 3)
    image, one = torch.rand(3, SIDE, SIDE - 7), target(4)
    one["masks"] = one["masks"][:, :, :-7]
    same = {"boxes": one["boxes"], "labels": one["labels"], "mask_bits": packed(one["masks"])}
    (_, plain), (_, found) = transform([image], [one]), transform([image], [same])
    assert torch.equal(plain[0]["masks"], found[0]["masks"])
    assert "mask_bits" in same, "the target itself is not changed"
    if kind is PackedMasksTransform:
        (_, theirs) = GeneralizedRCNNTransform(20, 50, [0.5] * 3, [0.2] * 3)([image], [one])
        assert torch.equal(theirs[0]["masks"], found[0]["masks"])
        assert torch.equal(theirs[0]["boxes"], found[0]["boxes"])
