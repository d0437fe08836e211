"""Detection data set, batches and loader: images in [0, 1] with boxes, labels and masks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from gcnet.data.coco.images import CocoImages
from gcnet.data.coco.objects import Objects
from gcnet.data.dataset import Item, Samples, Skipped
from gcnet.data.loader import Loader
from gcnet.data.sampling import EpochSampler, EvaluationSampler

Augment = Callable[[Image.Image, Objects], tuple[Image.Image, Objects]]


@dataclass(frozen=True)
class DetectionBatch:
    """Images of any sizes, float32 (3, H, W) in [0, 1], with their objects as a detector takes them.

    `names` and `image_ids` go with the images; `skipped` names those that could not be read.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    names: list[str]
    image_ids: list[int]
    skipped: list[Skipped]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> "DetectionBatch":
        """A copy on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "DetectionBatch":
        """A copy in page-locked memory, for faster transfer to a GPU (the loader calls it)."""
        return self._each(Tensor.pin_memory)

    def part(self, where: slice) -> "DetectionBatch":
        """Some of the images; those that could not be read stay behind."""
        return DetectionBatch(self.images[where], self.targets[where], self.names[where], self.image_ids[where], [])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "DetectionBatch":
        targets = [{name: change(value) for name, value in target.items()} for target in self.targets]
        return replace(self, images=[change(image) for image in self.images], targets=targets)


class DetectionSamples(Samples):
    """Images of a COCO set: dict(image, objects where they are asked for, image_id, name), or Skipped.

    Args:
        source: the images.
        augment: varies an image with its objects, by draws from torch's global generator; None leaves both as they are.
        with_objects: whether objects are drawn; evaluation needs none.
        seed: of the variation.
    """

    def __init__(
        self, source: CocoImages, augment: Augment | None = None, *, with_objects: bool = True, seed: int = 0
    ) -> None:
        super().__init__(source, seed=seed)
        self.images, self.augment, self.with_objects = source, augment, with_objects

    def sample(self, index: int) -> dict[str, Any]:
        """The image with its objects, both varied."""
        image, found = self.images.read(index), {}
        if self.with_objects:
            objects = self.images.objects(index)
            if self.augment is not None:
                image, objects = self.augment(image, objects)
            found = objects.to_dict()
        return {"image": pixels(image), "target": found, "image_id": self.images.image_id(index)}


def pixels(image: Image.Image) -> Float[Tensor, "3 height width"]:
    """An RGB image as float32 in [0, 1]."""
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, H, W)
    return values.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def collate_detection(items: Sequence[Item]) -> DetectionBatch:
    """Put samples together; damaged ones are listed as skipped and replaced by nothing."""
    whole = [item for item in items if isinstance(item, dict)]
    return DetectionBatch(
        images=[item["image"] for item in whole],
        targets=[item["target"] for item in whole],
        names=[item["name"] for item in whole],
        image_ids=[item["image_id"] for item in whole],
        skipped=[item for item in items if isinstance(item, Skipped)],
    )


def build_detection_loader(
    samples: DetectionSamples,
    order: EpochSampler | EvaluationSampler,
    workers: int = 0,
    *,
    pin_memory: bool = False,
) -> Loader[DetectionBatch]:
    """A loader of the samples in the order of a sampler; 0 workers load in this process."""
    return Loader(samples, order, workers=workers, collate_items=collate_detection, pin_memory=pin_memory)


def aspect_groups(source: CocoImages) -> list[int]:
    """Of each image whether it is upright (1) or not (0), so that a batch's padding stays small."""
    sizes = [source.size(index) for index in range(len(source))]
    return [int(height > width) for height, width in sizes]
