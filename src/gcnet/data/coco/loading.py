"""Detection data set, augmentation, batches and data loader."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from gcnet.data.transforms import image_pixels, unit_range

Augment = Callable[[Image.Image, Objects], tuple[Image.Image, Objects]]


@dataclass(frozen=True)
class DetectionBatch:
    """A batch of images of any size with their objects.

    Attributes:
        images: uint8 (3, H, W) each, or float32 in [0, 1] on the device.
        targets: Objects of each image, as `Objects.to_dict` returns them; empty in evaluation.
        names: Names of the images.
        image_ids: COCO ids of the images.
        skipped: Unreadable images of the batch.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    names: list[str]
    image_ids: list[int]
    skipped: list[Skipped]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> "DetectionBatch":
        """Return a copy on `device`, with images as float32 in [0, 1]."""
        moved = self._each(lambda tensor: tensor.to(device, non_blocking=True))
        images = [unit_range(image) if image.dtype == torch.uint8 else image for image in moved.images]
        return replace(moved, images=images)

    def pin_memory(self) -> "DetectionBatch":
        """Return a copy in page-locked memory, for faster transfer to a GPU."""
        return self._each(Tensor.pin_memory)

    def part(self, where: slice) -> "DetectionBatch":
        """Return the images at the slice `where`, without skipped ones."""
        return DetectionBatch(self.images[where], self.targets[where], self.names[where], self.image_ids[where], [])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "DetectionBatch":
        targets = [{name: change(value) for name, value in target.items()} for target in self.targets]
        return replace(self, images=[change(image) for image in self.images], targets=targets)


class DetectionDataset(SeededDataset):
    """Images of a COCO data set: dict(image, target, image_id, name), or `Skipped`.

    Args:
        source: The images.
        augment: Random augmentation of an image and its objects; None for none.
        with_objects: Whether to load objects; evaluation does not need them.
        seed: Seed of the augmentation.
    """

    def __init__(
        self, source: CocoImages, augment: Augment | None = None, *, with_objects: bool = True, seed: int = 0
    ) -> None:
        super().__init__(source, seed=seed)
        self.images, self.augment, self.with_objects = source, augment, with_objects

    def prefetch(self, indices: Sequence[int]) -> None:
        """Request the remote images at `indices` at the same time."""
        self.images.prefetch(indices)

    def sample(self, index: int) -> dict[str, Any]:
        """Return the augmented image at `index` with its objects."""
        image, target = self.images.read(index), {}
        if self.with_objects:
            objects = self.images.objects(index)
            if self.augment is not None:
                image, objects = self.augment(image, objects)
            target = objects.to_dict()
        return {"image": image_pixels(image), "target": target, "image_id": self.images.image_id(index)}


def image_to_tensor(image: Image.Image) -> Float[Tensor, "3 height width"]:
    """Return the RGB image `image` as float32 (3, H, W) in [0, 1]."""
    return unit_range(image_pixels(image))


def collate_detection(items: Sequence[Item]) -> DetectionBatch:
    """Return the batch of `items`; unreadable ones are listed as skipped."""
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
    persistent: bool = False,
) -> Loader[DetectionBatch]:
    """Build a data loader of detection samples.

    Args:
        samples: The samples.
        order: Keys of each batch.
        workers: Worker processes; 0 loads in the calling process.
        pin_memory: Whether to put batches into page-locked memory.
        persistent: Whether workers stay alive between iterations.

    Returns:
        Loader of `DetectionBatch`.
    """
    return Loader(
        samples,
        order,
        workers=workers,
        collate_items=collate_detection,
        pin_memory=pin_memory,
        persistent=persistent,
    )


def aspect_groups(source: CocoImages) -> list[int]:
    """Return 1 for each portrait image of `source` and 0 for landscape, to reduce padding in batches."""
    sizes = [source.size(index) for index in range(len(source))]
    return [int(height > width) for height, width in sizes]


_LEAST_SIDE = 1.0  # pixels of a box that a crop leaves


def build_augment(augment: AugmentSettings, *, jitter: tuple[float, float] | None, side: int) -> Augment:
    """Build the augmentation of training images.

    Large-scale jitter resizes the image to fit a square of `side` pixels times a random factor, and crops or pads it to
    the square.

    Reference: simple copy-paste, arXiv 2012.07177, section 3.1.

    Args:
        augment: Flip and color jitter.
        jitter: Minimum and maximum factor of large-scale jitter; None disables it.
        side: Side of the square of large-scale jitter, in pixels.

    Returns:
        Augmentation of an image and its objects.
    """
    steps: list[Augment] = [RandomHorizontalFlip(augment.hflip)] if augment.hflip else []
    if strength := augment.color_jitter:
        steps.append(ImageTransform(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength)))
    if jitter is not None:
        steps.append(LargeScaleJitter(side, jitter))
    return Compose(steps)


class Compose:
    """Apply several augmentations in order.

    Args:
        steps: The augmentations.
    """

    def __init__(self, steps: Sequence[Augment]) -> None:
        self.steps = steps

    def __call__(self, image: Image.Image, objects: Objects) -> tuple[Image.Image, Objects]:
        for step in self.steps:
            image, objects = step(image, objects)
        return image, objects


class RandomHorizontalFlip:
    """Random horizontal flip.

    Args:
        probability: Probability of a flip, 0 to 1.
    """

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


class ImageTransform:
    """Apply a transform to the image, not to its objects.

    Args:
        transform: Transform of an RGB image.
    """

    def __init__(self, transform: v2.Transform) -> None:
        self.transform = transform

    def __call__(self, image: Image.Image, objects: Objects) -> tuple[Image.Image, Objects]:
        return self.transform(image), objects


class LargeScaleJitter:
    """Resize by a random factor, then crop or pad (black, right and below) to a square.

    Args:
        side: Side of the square in pixels.
        factors: Minimum and maximum factor.
    """

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
        changed_objects = Objects(boxes, objects.labels, masks, objects.has_mask)
        sides = changed_objects.boxes[:, 2:] - changed_objects.boxes[:, :2]
        is_visible = ~changed_objects.masks.is_empty() | ~changed_objects.has_mask
        return self.crop.transform(padded, crop), changed_objects.select((sides >= _LEAST_SIDE).all(dim=1) & is_visible)
