"""Objects of an image as training targets."""

import numpy as np
import torch
from PIL import Image

from gcnet.data.coco.images import CocoImages
from gcnet.data.coco.objects import BitMasks

TRIANGLE = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0]


def one_image(*annotations: dict[str, object]) -> CocoImages:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 30}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 9.0, **annotation}
            for number, annotation in enumerate(annotations, start=1)
        ],
    }
    return CocoImages(content, lambda _: Image.new("RGB", (20, 30)))


def test_packed_masks_unpack_to_the_same() -> None:
    masks = np.random.default_rng(0).integers(0, 2, (4, 5, 13)).astype(bool)
    packed = BitMasks.pack(masks, 4, 5, 13)
    assert np.array_equal(packed.dense().numpy(), masks)
    assert [mask.tolist() for mask in packed] == masks.astype(int).tolist()
    assert packed.bits.shape == (4, 5, 2)
    flipped = packed.mapped(lambda mask: mask.flip(-1), 5, 13)
    assert np.array_equal(flipped.dense().numpy(), masks[:, :, ::-1])
    assert BitMasks.pack([], 0, 5, 13).dense().shape == (0, 5, 13)


def test_objects_without_a_mask_have_an_empty_one_and_are_marked() -> None:
    box = {"bbox": [2, 3, 4, 5]}
    objects = one_image(box, {**box, "segmentation": [[2.0, 3.0, 6.0, 3.0, 6.0, 8.0]]}, {**box, "segmentation": []})
    found = objects.objects(0)
    assert found.has_mask.tolist() == [False, True, False]
    assert found.masks.is_empty().tolist() == [True, False, True]
    assert found.chosen(torch.tensor([False, True, True])).has_mask.tolist() == [True, False]


def test_training_boxes_end_at_the_edge_of_the_image() -> None:
    found = one_image({"bbox": [10, -5, 20, 20], "segmentation": [TRIANGLE]}).objects(0)
    assert found.boxes.tolist() == [[10, 0, 20, 15]]
    assert found.masks.dense().any(dim=1)[0].nonzero().flatten().tolist() == list(range(11, 20))
