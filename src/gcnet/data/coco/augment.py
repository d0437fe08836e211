"""Random variation of an image together with its objects: mirroring, colours, large-scale jitter.

Every draw comes from torch's global generator, which `gcnet.data.loading` seeds for each sample. Multi-scale training
is not here but in the detector, which resizes its images to one of several sizes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from gcnet.data.coco.images import Objects
from gcnet.data.coco.loading import Augment
from gcnet.data.settings import AugmentSettings

_LEAST_SIDE = 1.0  # pixels of a box that a crop leaves


def build_augment(augment: AugmentSettings, *, jitter: tuple[float, float] | None, side: int) -> Augment:
    """The variation of training images.

    Arguments:
        augment: of which `flip` and `colour_jitter` apply.
        jitter: large-scale jitter (simple copy-paste, arXiv 2012.07177, section 3.1): the image is resized to fit a
            square of `side` pixels times a factor between these two, then cropped or padded to the square; None leaves
            sizes as they are.
        side: of that square, in pixels.
    """
    steps: list[Augment] = [Mirror(augment.flip)] if augment.flip else []
    if strength := augment.colour_jitter:
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


class Mirror:
    """Left and right exchanged, with a probability."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, image: Image.Image, objects: Objects) -> tuple[Image.Image, Objects]:
        if torch.rand(()).item() >= self.probability:
            return image, objects
        boxes = objects.boxes.clone()
        boxes[:, [0, 2]] = image.width - objects.boxes[:, [2, 0]]
        mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return mirrored, Objects(boxes, objects.labels, objects.masks.flip(-1))


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
        boxes = as_boxes(objects.boxes, format="XYXY", canvas_size=size)
        image, boxes, masks = self.resize(image, boxes, tv_tensors.Mask(objects.masks))
        right, below = max(0, self.side - image.width), max(0, self.side - image.height)
        padded = v2.Pad([0, 0, right, below])(image, boxes, masks)
        image, boxes, masks = self.crop(*padded)
        found = Objects(boxes.as_subclass(torch.Tensor), objects.labels, masks.as_subclass(torch.Tensor))
        sides = found.boxes[:, 2:] - found.boxes[:, :2]
        return image, found.chosen((sides >= _LEAST_SIDE).all(dim=1) & (found.masks.flatten(1) > 0).any(dim=1))
