"""Results that are near the annotations of a COCO set, and images whose objects are known by their pixels."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from gcnet.data.coco.annotated_images import CocoImages
from gcnet.data.coco.loading import image_to_tensor
from gcnet.data.coco.masks import Objects, segmentation_mask

Content = dict[str, Any]


def shaken(content: Content, seed: int = 0) -> list[Content]:
    """Results near the annotations: moved, some missing, some of another class, some of nothing at all."""
    generator = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    categories = [category["id"] for category in content["categories"]]
    results = []
    for annotation in content["annotations"]:
        if generator.random() < 0.15:
            continue
        mask = segmentation_mask(annotation["segmentation"], *sizes[annotation["image_id"]])
        shift = generator.integers(-3, 4, size=2)
        mask = np.roll(mask, tuple(shift), axis=(0, 1))
        runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        category = annotation["category_id"] if generator.random() < 0.9 else int(generator.choice(categories))
        left, top, width, height = annotation["bbox"]
        box = [
            left + shift[1],
            top + shift[0],
            width * generator.uniform(0.8, 1.2),
            height * generator.uniform(0.8, 1.2),
        ]
        results.append(
            {
                "image_id": annotation["image_id"],
                "category_id": category,
                "bbox": [float(value) for value in box],
                "segmentation": {"size": list(mask.shape), "counts": runs["counts"].decode()},
                "score": float(generator.random()),
            }
        )
    return results


def as_results(content: Content, score: float = 1.0) -> list[Content]:
    """The objects of a COCO file as results, without crowds."""
    return [{**one, "score": score} for one in content["annotations"] if not one.get("iscrowd", 0)]


class Knowing(nn.Module):
    """A detector that knows its images by their pixels, and finds exactly what is in them."""

    def __init__(self, images: CocoImages, score: float = 1.0) -> None:
        super().__init__()
        self.score = score
        self.transform = SimpleNamespace(min_size=(64,), max_size=64)
        self.known = {
            _digest(image_to_tensor(images.read(index))): images.objects(index) for index in range(len(images))
        }

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self._found(self.known[_digest(image)]) for image in images]

    def _found(self, objects: Objects) -> dict[str, Tensor]:
        scores = torch.full((len(objects.labels),), self.score)
        return {
            "boxes": objects.boxes,
            "labels": objects.labels,
            "scores": scores,
            "masks": objects.masks.dense()[:, None].float(),
        }


def _digest(image: Tensor) -> bytes:
    return image.numpy().tobytes()
