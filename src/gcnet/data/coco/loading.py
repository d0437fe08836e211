"""Detection data set, batches and loader: images in [0, 1] with boxes, labels and masks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from gcnet.data.coco.annotated_images import CocoImages
from gcnet.data.coco.masks import Objects
from gcnet.data.dataset import Item, SeededDataset, Skipped
from gcnet.data.loader import Loader
from gcnet.data.sampler import EpochSampler, EvaluationSampler
from gcnet.data.settings import AugmentSettings

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


class DetectionDataset(SeededDataset):
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
        return {"image": image_to_tensor(image), "target": found, "image_id": self.images.image_id(index)}


def image_to_tensor(image: Image.Image) -> Float[Tensor, "3 height width"]:
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
    samples: DetectionDataset,
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


_LEAST_SIDE = 1.0  # pixels of a box that a crop leaves


def build_augment(augment: AugmentSettings, *, jitter: tuple[float, float] | None, side: int) -> Augment:
    """The variation of training images.

    Args:
        augment: of which `hflip` and `color_jitter` apply.
        jitter: large-scale jitter (simple copy-paste, arXiv 2012.07177, section 3.1): the image is resized to fit a
            square of `side` pixels times a factor between these two, then cropped or padded to the square; None leaves
            sizes as they are.
        side: of that square, in pixels.
    """
    steps: list[Augment] = [RandomHorizontalFlip(augment.hflip)] if augment.hflip else []
    if strength := augment.color_jitter:
        steps.append(Colours(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength)))
    if jitter is not None:
        steps.append(LargeScaleJitter(side, jitter))
    return Chain(steps)


class Chain:
    """One step after the other."""

    def __init__(self, steps: Sequence[Augment]) -> None:
        self.steps = steps

    def __call__(self, image: Image.Image, objects: Objects) -> tuple[Image.Image, Objects]:
        for step in self.steps:
            image, objects = step(image, objects)
        return image, objects


class RandomHorizontalFlip:
    """Left and right exchanged, with a probability."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, image: Image.Image, objects: Objects) -> tuple[Image.Image, Objects]:
        if torch.rand(()).item() >= self.probability:
            return image, objects
        boxes = objects.boxes.clone()
        boxes[:, [0, 2]] = image.width - objects.boxes[:, [2, 0]]
        mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        masks = objects.masks.map(lambda mask: mask.flip(-1), image.height, image.width)
        return mirrored, Objects(boxes, objects.labels, masks, objects.has_mask)


class Colours:
    """A change of the image alone."""

    def __init__(self, transform: v2.Transform) -> None:
        self.transform = transform

    def __call__(self, image: Image.Image, objects: Objects) -> tuple[Image.Image, Objects]:
        return self.transform(image), objects


class LargeScaleJitter:
    """Resized by a random factor, then cropped or padded (black, right and below) to a square of `side` pixels."""

    def __init__(self, side: int, factors: tuple[float, float]) -> None:
        self.resize = v2.ScaleJitter((side, side), scale_range=factors, antialias=True)
        self.crop = v2.RandomCrop(side)
        self.side = side

    def __call__(self, image: Image.Image, objects: Objects) -> tuple[Image.Image, Objects]:
        size = image.height, image.width
        as_boxes: Any = tv_tensors.BoundingBoxes
        resize = self.resize.make_params([image])
        resized = self.resize.transform(image, resize)
        pad = v2.Pad([0, 0, max(0, self.side - resized.width), max(0, self.side - resized.height)])
        padded = pad(resized)
        crop = self.crop.make_params([padded])

        def changed(value: Tensor) -> Tensor:
            return self.crop.transform(pad(self.resize.transform(value, resize)), crop).as_subclass(Tensor)

        boxes = changed(as_boxes(objects.boxes, format="XYXY", canvas_size=size))
        masks = objects.masks.map(lambda mask: changed(tv_tensors.Mask(mask)), self.side, self.side)
        found = Objects(boxes, objects.labels, masks, objects.has_mask)
        sides = found.boxes[:, 2:] - found.boxes[:, :2]
        is_seen = ~found.masks.is_empty() | ~found.has_mask
        return self.crop.transform(padded, crop), found.select((sides >= _LEAST_SIDE).all(dim=1) & is_seen)
