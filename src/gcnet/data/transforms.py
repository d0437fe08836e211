"""Image transforms: deterministic ones for evaluation, random ones for training.

Geometry is Pillow's, antialiased. Every random draw comes from torch's global generator, which `gcnet.data.loader`
seeds for each sample.
"""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from gcnet.data.settings import AugmentSettings, Preprocessing

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_SMALL = 64
_LONGEST = 16  # times the short side


def build_eval_transform(preprocessing: Preprocessing) -> "EvalTransform":
    """The transform of evaluation: RGB image of any size -> float32 (3, image_size, image_size), normalised."""
    return EvalTransform(preprocessing)


def build_train_transform(preprocessing: Preprocessing, augment: AugmentSettings) -> "TrainTransform":
    """The transform of training: the same shape, after random crop, flip, colours and erasing.

    The crop "auto" is "pad" for images of up to 64 pixels that need no resizing, otherwise "resized".
    """
    return TrainTransform(preprocessing, augment)


class EvalTransform:
    """Short side resized, center crop, scaled to [0, 1], normalised."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self.normalise = Normalize(preprocessing.mean, preprocessing.std)

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 size size"]:
        return self.normalise(resize_and_crop(image, self.preprocessing))

    def __repr__(self) -> str:
        return f"EvalTransform({self.preprocessing!r})"


class TrainTransform:
    """Random crop, flip, colours; scaled to [0, 1], normalised; random erasing."""

    def __init__(self, preprocessing: Preprocessing, augment: AugmentSettings) -> None:
        self.preprocessing, self.augment = preprocessing, augment
        self.crop = _crop_kind(preprocessing, augment)
        size, scale = preprocessing.image_size, augment.crop_scale
        mode = InterpolationMode(preprocessing.interpolation)
        self.resized_crop = v2.RandomResizedCrop(size, scale=scale, interpolation=mode, antialias=True)
        self.colours = _colour_steps(augment)
        self.normalise = Normalize(preprocessing.mean, preprocessing.std)
        self.erase = v2.RandomErasing(p=augment.erasing) if augment.erasing else None

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 size size"]:
        image = self.crop_randomly(image)
        if self.augment.hflip and torch.rand(()).item() < self.augment.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for step in self.colours:
            image = step(image)
        pixels = self.normalise(image)
        return self.erase(pixels) if self.erase else pixels

    def crop_randomly(self, image: Image.Image) -> Image.Image:
        """The first step: to the network's size, with more or less of the image in it."""
        if self.crop == "resized":
            return self.resized_crop(image)
        image = resize_and_crop(image, self.preprocessing)
        return shift_randomly(image, self.augment.pad) if self.crop == "pad" and self.augment.pad else image

    def describe(self) -> str:
        """What is drawn at random, such as "crop pad, flip 0.5"."""
        augment = self.augment
        found = [] if self.crop == "none" else [f"crop {self.crop}"]
        found += [augment.auto_augment] if augment.auto_augment != "none" else []
        numbers = {"flip": augment.hflip, "color jitter": augment.color_jitter, "erasing": augment.erasing}
        return ", ".join(found + [f"{name} {value:g}" for name, value in numbers.items() if value]) or "none"

    def __repr__(self) -> str:
        return f"TrainTransform({self.preprocessing!r}, {self.augment})"


class Normalize:
    """RGB image -> float32 (3, H, W): scaled to [0, 1], mean subtracted, divided by std."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, H, W)
        scaled = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return scaled.sub_(self.mean).div_(self.std)


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Short side (or both sides) to `resize`, by default `image_size`, then the central square of `image_size`."""
    size = preprocessing.image_size
    short = preprocessing.resize or size
    if preprocessing.crop_mode == "squash":
        width = height = short
    else:
        image = _without_far_ends(image)
        width, height = image.size
        lower = min(width, height)
        # As in torchvision: the product first, so that no rounding of the ratio can cost a pixel.
        width, height = (short, int(short * height / lower)) if width <= height else (int(short * width / lower), short)
    if image.size != (width, height):
        image = image.resize((width, height), _RESAMPLING[preprocessing.interpolation])
    if (width, height) == (size, size):
        return image
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _without_far_ends(image: Image.Image) -> Image.Image:
    """The central part of a very long image: resizing a line of 5,000 x 1 pixels would need 1,120,000 x 224."""
    width, height = image.size
    longest = _LONGEST * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, min(width, left + longest), min(height, top + longest)))


def shift_randomly(image: Image.Image, pad: int) -> Image.Image:
    """A crop of the image's own size from the image with a black border of `pad` pixels."""
    left, top = (torch.randint(0, 2 * pad + 1, (2,)) - pad).tolist()
    return image.crop((left, top, left + image.width, top + image.height))


def _crop_kind(preprocessing: Preprocessing, augment: AugmentSettings) -> str:
    if augment.random_crop != "auto":
        return augment.random_crop
    return (
        "pad"
        if preprocessing.image_size <= _SMALL and preprocessing.resize in (None, preprocessing.image_size)
        else "resized"
    )


def _colour_steps(augment: AugmentSettings) -> list[v2.Transform]:
    steps: list[v2.Transform] = []
    if augment.auto_augment == "randaugment":
        steps.append(v2.RandAugment(magnitude=augment.ra_magnitude, interpolation=InterpolationMode.BILINEAR))
    if augment.auto_augment == "trivialaugment":
        steps.append(v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR))
    if strength := augment.color_jitter:
        steps.append(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength))
    return steps
