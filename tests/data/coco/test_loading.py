import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from gcnet.data.coco.annotated_images import CocoImages, Entry
from gcnet.data.coco.loading import (
    DetectionBatch,
    DetectionDataset,
    LargeScaleJitter,
    RandomHorizontalFlip,
    aspect_groups,
    build_augment,
    build_detection_loader,
    collate_detection,
)
from gcnet.data.coco.masks import BitMasks, Objects
from gcnet.data.coco.open import open_coco
from gcnet.data.decode import ImageError
from gcnet.data.sampler import EpochSampler
from gcnet.data.settings import AugmentSettings, DataSettings


def scenes() -> CocoImages:
    return open_coco(DataSettings(data="scenes", limit_train=12, limit_val=1))[0].images


def digest(batches: list[DetectionBatch]) -> str:
    found = hashlib.sha256()
    for batch in batches:
        for image, target in zip(batch.images, batch.targets, strict=True):
            for tensor in (image, *target.values()):
                found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("jitter", [None, (0.5, 1.5)])
def test_any_number_of_workers_loads_the_same_batches(jitter: tuple[float, float] | None):
    augment = build_augment(AugmentSettings(color_jitter=0.4), jitter=jitter, side=64)
    found = set()
    for workers in (0, 1, 2):
        order = EpochSampler(12, batch_size=4, seed=3)
        loader = build_detection_loader(DetectionDataset(scenes(), augment, seed=3), order, workers)
        found.add(digest([*loader, *loader]))
    assert len(found) == 1


def test_a_damaged_image_is_named_and_replaced_by_nothing():
    whole = scenes()

    def read(entry: Entry) -> Image.Image:
        if entry["id"] == 2:
            raise ImageError(entry["file_name"], "truncated")
        return whole.read(entry["id"] - 1)

    samples = DetectionDataset(CocoImages(whole.content, read))
    batch = collate_detection(samples.load([(0, 0), (0, 1), (0, 2)]))
    assert batch.names == ["000000.png", "000002.png"]
    assert batch.image_ids == [1, 3]
    assert [(one.name, one.reason) for one in batch.skipped] == [("000001.png", "truncated")]
    assert len(batch) == len(batch.images) == len(batch.targets) == 2


def test_pixels_are_the_image_over_255():
    images = scenes()
    loaded = collate_detection(DetectionDataset(images).load([(0, 4)]))
    assert loaded.images[0].dtype == torch.uint8
    batch = loaded.to(torch.device("cpu"))
    values = torch.tensor(list(images.read(4).tobytes()), dtype=torch.float32).reshape(64, 64, 3)
    assert torch.equal(batch.images[0], values.permute(2, 0, 1) / 255)


def test_evaluation_draws_no_masks():
    sample = DetectionDataset(scenes(), with_objects=False).load([(0, 0)])[0]
    assert isinstance(sample, dict)
    assert sample["target"] == {}


def test_parts_of_a_batch_keep_images_and_names_together():
    batch = collate_detection(DetectionDataset(scenes()).load([(0, index) for index in range(5)]))
    part = batch.part(slice(1, 3))
    assert part.names == batch.names[1:3]
    assert part.image_ids == [2, 3]
    assert all(a is b for a, b in zip(part.images, batch.images[1:3], strict=True))


def test_portrait_and_landscape_images_are_separate_groups():
    sizes = ((4, 5), (5, 4), (4, 4), (9, 1))
    images = [
        {"id": number, "file_name": f"{number}.png", "height": height, "width": width}
        for number, (height, width) in enumerate(sizes, start=1)
    ]
    source = CocoImages({"images": images, "categories": [], "annotations": []}, lambda _: Image.new("RGB", (1, 1)))
    assert aspect_groups(source) == [0, 1, 0, 1]


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


def test_a_flip_keeps_boxes_masks_and_pixels_consistent():
    image, objects = RandomHorizontalFlip(1.0)(*sample())
    white = torch.from_numpy(np.asarray(image)[:, :, 0] > 0)
    assert [box_of(mask) for mask in objects.masks] == objects.boxes.tolist()
    assert torch.equal(objects.masks.dense().amax(0).bool(), white)
    assert objects.boxes[0].tolist() == [16, 3, 26, 9]


def test_a_flip_of_probability_0_changes_nothing():
    before = sample()
    image, objects = RandomHorizontalFlip(0.0)(*before)
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


def test_jitter_drops_objects_outside_of_its_crop():
    kept = set()
    for seed in range(30):
        torch.manual_seed(seed)
        _, objects = LargeScaleJitter(24, (1.9, 2.0))(*sample())
        assert bool(objects.masks.dense().flatten(1).any(1).all())
        assert bool((objects.boxes[:, 2:] - objects.boxes[:, :2] >= 1).all())
        kept.add(len(objects.labels))
    assert 0 in kept or 1 in kept


def test_color_jitter_changes_the_image_only():
    before = sample()
    image, objects = build_augment(AugmentSettings(hflip=0.0, color_jitter=0.5), jitter=None, side=8)(*before)
    assert image.size == before[0].size
    assert objects is before[1]
