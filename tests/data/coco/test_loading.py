import hashlib

import pytest
import torch
from PIL import Image

from gcnet.data.coco.augment import build_augment
from gcnet.data.coco.images import CocoImages, Entry
from gcnet.data.coco.loading import (
    DetectionBatch,
    DetectionSamples,
    aspect_groups,
    build_detection_loader,
    collate_detection,
)
from gcnet.data.coco.source import open_coco
from gcnet.data.decode import ImageError
from gcnet.data.sampling import EpochSampler
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
    augment = build_augment(AugmentSettings(colour_jitter=0.4), jitter=jitter, side=64)
    found = set()
    for workers in (0, 1, 2):
        order = EpochSampler(12, batch_size=4, seed=3)
        loader = build_detection_loader(DetectionSamples(scenes(), augment, seed=3), order, workers)
        found.add(digest([*loader, *loader]))
    assert len(found) == 1


def test_a_damaged_image_is_named_and_replaced_by_nothing():
    whole = scenes()

    def read(entry: Entry) -> Image.Image:
        if entry["id"] == 2:
            raise ImageError(entry["file_name"], "truncated")
        return whole.read(entry["id"] - 1)

    samples = DetectionSamples(CocoImages(whole.content, read))
    batch = collate_detection(samples.load([(0, 0), (0, 1), (0, 2)]))
    assert batch.names == ["000000.png", "000002.png"]
    assert batch.image_ids == [1, 3]
    assert [(one.name, one.reason) for one in batch.skipped] == [("000001.png", "truncated")]
    assert len(batch) == len(batch.images) == len(batch.targets) == 2


def test_pixels_are_the_image_over_255():
    images = scenes()
    batch = collate_detection(DetectionSamples(images).load([(0, 4)]))
    values = torch.tensor(list(images.read(4).tobytes()), dtype=torch.float32).reshape(64, 64, 3)
    assert torch.equal(batch.images[0], values.permute(2, 0, 1) / 255)


def test_evaluation_draws_no_masks():
    sample = DetectionSamples(scenes(), with_objects=False).load([(0, 0)])[0]
    assert isinstance(sample, dict)
    assert sample["target"] == {}


def test_parts_of_a_batch_keep_images_and_names_together():
    batch = collate_detection(DetectionSamples(scenes()).load([(0, index) for index in range(5)]))
    part = batch.part(slice(1, 3))
    assert part.names == batch.names[1:3]
    assert part.image_ids == [2, 3]
    assert all(a is b for a, b in zip(part.images, batch.images[1:3], strict=True))


def test_upright_images_are_one_group_and_others_the_other():
    sizes = ((4, 5), (5, 4), (4, 4), (9, 1))
    images = [
        {"id": number, "file_name": f"{number}.png", "height": height, "width": width}
        for number, (height, width) in enumerate(sizes, start=1)
    ]
    source = CocoImages({"images": images, "categories": [], "annotations": []}, lambda _: Image.new("RGB", (1, 1)))
    assert aspect_groups(source) == [0, 1, 0, 1]
