"""Augmentation of images with their objects: horizontal flip, color jitter, large-scale jitter.

Every draw comes from torch's global generator, which `gcnet.data.loader` seeds for each sample. Multi-scale training
is not here but in the detector, which resizes its images to one of several sizes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from gcnet.data.coco.loading import Augment
from gcnet.data.coco.objects import Objects
from gcnet.data.settings import AugmentSettings

_LEAST_SIDE = 1.0  # pixels of a box that a crop leaves


def build_augment(augment: AugmentSettings, *, jitter: tuple[float, float] | None, side: int) -> Augment:
    """The variation of training images.

    Args:
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
        masks = objects.masks.mapped(lambda mask: mask.flip(-1), image.height, image.width)
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
        masks = objects.masks.mapped(lambda mask: changed(tv_tensors.Mask(mask)), self.side, self.side)
        found = Objects(boxes, objects.labels, masks, objects.has_mask)
        sides = found.boxes[:, 2:] - found.boxes[:, :2]
        is_seen = ~found.masks.is_empty() | ~found.has_mask
        return self.crop.transform(padded, crop), found.chosen((sides >= _LEAST_SIDE).all(dim=1) & is_seen)
