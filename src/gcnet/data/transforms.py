"""Image transforms of training and evaluation.

Resizing is Pillow's, antialiased. Random numbers come from PyTorch's global generator, seeded per sample.
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
    """Build the transform of evaluation.

    Args:
        preprocessing: Sizes, interpolation and normalization.

    Returns:
        Transform of an RGB image of any size to float32 (3, image_size, image_size), normalized.
    """
    return EvalTransform(preprocessing)


def build_train_transform(preprocessing: Preprocessing, augment: AugmentSettings) -> "TrainTransform":
    """Build the transform of training: random crop, flip, color changes and erasing.

    The crop "auto" is "pad" for images of up to 64 pixels that need no resizing, otherwise "resized".

    Args:
        preprocessing: Sizes, interpolation and normalization.
        augment: Random augmentations.

    Returns:
        Transform of an RGB image of any size to float32 (3, image_size, image_size), normalized.
    """
    return TrainTransform(preprocessing, augment)


class EvalTransform:
    """Resize the short side, center crop, scale to [0, 1], normalize.

    Args:
        preprocessing: Sizes, interpolation and normalization.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self.normalize = Normalize(preprocessing.mean, preprocessing.std)

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 size size"]:
        return self.normalize(resize_and_crop(image, self.preprocessing))

    def __repr__(self) -> str:
        return f"EvalTransform({self.preprocessing!r})"


class TrainTransform:
    """Random crop, flip and color changes; scale to [0, 1], normalize; random erasing.

    Args:
        preprocessing: Sizes, interpolation and normalization.
        augment: Random augmentations.
    """

    def __init__(self, preprocessing: Preprocessing, augment: AugmentSettings) -> None:
        self.preprocessing, self.augment = preprocessing, augment
        self.crop = _crop_kind(preprocessing, augment)
        size, scale = preprocessing.image_size, augment.crop_scale
        mode = InterpolationMode(preprocessing.interpolation)
        self.resized_crop = v2.RandomResizedCrop(size, scale=scale, interpolation=mode, antialias=True)
        self.color_steps = _color_steps(augment)
        self.normalize = Normalize(preprocessing.mean, preprocessing.std)
        self.erase = v2.RandomErasing(p=augment.erasing) if augment.erasing else None

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 size size"]:
        image = self.crop_randomly(image)
        if self.augment.hflip and torch.rand(()).item() < self.augment.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for step in self.color_steps:
            image = step(image)
        pixels = self.normalize(image)
        return self.erase(pixels) if self.erase else pixels

    def crop_randomly(self, image: Image.Image) -> Image.Image:
        """Return `image`, an RGB image, cropped at random to the input size of the network."""
        if self.crop == "resized":
            return self.resized_crop(image)
        image = resize_and_crop(image, self.preprocessing)
        return shift_randomly(image, self.augment.pad) if self.crop == "pad" and self.augment.pad else image

    def describe(self) -> str:
        """Return the active augmentations, such as "crop pad, flip 0.5"."""
        augment = self.augment
        parts = [] if self.crop == "none" else [f"crop {self.crop}"]
        parts += [augment.auto_augment] if augment.auto_augment != "none" else []
        numbers = {"flip": augment.hflip, "color jitter": augment.color_jitter, "erasing": augment.erasing}
        return ", ".join(parts + [f"{name} {value:g}" for name, value in numbers.items() if value]) or "none"

    def __repr__(self) -> str:
        return f"TrainTransform({self.preprocessing!r}, {self.augment})"


class Normalize:
    """RGB image to float32 (3, H, W): scaled to [0, 1], minus mean, divided by std.

    Args:
        mean: Mean of each of the three channels, 0 to 1.
        std: Standard deviation of each of the three channels, above 0.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, H, W)
        scaled = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return scaled.sub_(self.mean).div_(self.std)


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize the short side (or both sides) to `resize`, then center crop to `image_size`.

    Args:
        image: RGB image.
        preprocessing: Sizes, crop mode and interpolation.

    Returns:
        RGB image of `image_size` x `image_size` pixels.
    """
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
    """Crop very long images first: resizing a line of 5,000 x 1 pixels would need 1,120,000 x 224."""
    width, height = image.size
    longest = _LONGEST * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, min(width, left + longest), min(height, top + longest)))


def shift_randomly(image: Image.Image, pad: int) -> Image.Image:
    """Pad an image with black and crop it at random to its own size.

    Args:
        image: RGB image.
        pad: Padding of each side, in pixels.

    Returns:
        RGB image of the same size.
    """
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


def _color_steps(augment: AugmentSettings) -> list[v2.Transform]:
    steps: list[v2.Transform] = []
    if augment.auto_augment == "randaugment":
        steps.append(v2.RandAugment(magnitude=augment.ra_magnitude, interpolation=InterpolationMode.BILINEAR))
    if augment.auto_augment == "trivialaugment":
        steps.append(v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR))
    if strength := augment.color_jitter:
        steps.append(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength))
    return steps
