import numpy as np
import pytest
import torch
from PIL import Image

from gcnet.data.coco.augment import LargeScaleJitter, Mirror, build_augment
from gcnet.data.coco.objects import BitMasks, Objects
from gcnet.data.settings import AugmentSettings


def sample(height: int = 20, width: int = 30) -> tuple[Image.Image, Objects]:
    """Two white rectangles on black, and the same as objects."""
    masks = np.zeros((2, height, width), dtype=np.uint8)
    masks[0, 3:9, 4:14] = 1
    masks[1, 12:18, 20:29] = 1
    image = Image.fromarray(np.repeat(masks.max(0)[:, :, None] * np.uint8(255), 3, axis=2))
    boxes = torch.tensor([[4.0, 3.0, 14.0, 9.0], [20.0, 12.0, 29.0, 18.0]])
    packed = BitMasks.pack(masks.astype(bool), 2, height, width)
    return image, Objects(boxes, torch.tensor([1, 2]), packed, torch.tensor([True, True]))


def box_of(mask: torch.Tensor) -> list[float]:
    rows, columns = mask.nonzero(as_tuple=True)
    return [float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)]


def test_a_mirrored_box_is_still_that_of_its_mask_and_of_the_pixels():
    image, objects = Mirror(1.0)(*sample())
    white = torch.from_numpy(np.asarray(image)[:, :, 0] > 0)
    assert [box_of(mask) for mask in objects.masks] == objects.boxes.tolist()
    assert torch.equal(objects.masks.dense().amax(0).bool(), white)
    assert objects.boxes[0].tolist() == [16, 3, 26, 9]


def test_a_mirror_of_probability_0_does_nothing():
    before = sample()
    image, objects = Mirror(0.0)(*before)
    assert np.array_equal(np.asarray(image), np.asarray(before[0]))
    assert torch.equal(objects.boxes, before[1].boxes)


@pytest.mark.parametrize("seed", range(8))
def test_jitter_keeps_pixels_masks_and_boxes_together(seed: int):
    torch.manual_seed(seed)
    image, objects = LargeScaleJitter(48, (0.5, 2.0))(*sample())
    assert image.size == (48, 48)
    assert objects.masks.dense().shape[1:] == (48, 48)
    white = torch.from_numpy(np.asarray(image)[:, :, 0] > 127)
    apart = (objects.masks.dense().amax(0).bool() != white) if len(objects.masks) else white
    assert float(apart.float().mean()) < 0.06
    for mask, box in zip(objects.masks, objects.boxes.tolist(), strict=True):
        assert box_of(mask) == pytest.approx(box, abs=1.01)


def test_jitter_leaves_out_what_its_crop_cuts_away():
    kept = set()
    for seed in range(30):
        torch.manual_seed(seed)
        _, objects = LargeScaleJitter(24, (1.9, 2.0))(*sample())
        assert bool(objects.masks.dense().flatten(1).any(1).all())
        assert bool((objects.boxes[:, 2:] - objects.boxes[:, :2] >= 1).all())
        kept.add(len(objects.labels))
    assert 0 in kept or 1 in kept


def test_colours_change_the_image_alone():
    before = sample()
    image, objects = build_augment(AugmentSettings(flip=0.0, colour_jitter=0.5), jitter=None, side=8)(*before)
    assert image.size == before[0].size
    assert objects is before[1]
