"""Image transforms of training and evaluation.

Resizing is Pillow's, antialiased. Random numbers come from PyTorch's global generator, seeded per sample. Data loaders
collect uint8 pixels, a quarter of the bytes of float32, and `Normalize` runs on the device of the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from gcnet.data.settings import AugmentSettings, Preprocessing

if TYPE_CHECKING:
    from torchvision.transforms import v2

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_SMALL = 64
_LONGEST = 16  # times the short side

Rectangle = tuple[int, int, int, int]
"""Top, left, height and width of a part of an image, in pixels."""


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
        return self.normalize(self.pixels(image)[0][None])[0]

    def pixels(self, image: Image.Image) -> tuple[UInt8[Tensor, "3 size size"], Rectangle | None]:
        """Return the pixels before normalization, and None, since evaluation erases nothing.

        Args:
            image: RGB image of any size.
        """
        return image_pixels(resize_and_crop(image, self.preprocessing)), None

    def __repr__(self) -> str:
        return f"EvalTransform({self.preprocessing!r})"


class TrainTransform:
    """Random crop, flip and color changes; scale to [0, 1], normalize; random erasing.

    Args:
        preprocessing: Sizes, interpolation and normalization.
        augment: Random augmentations.
    """

    def __init__(self, preprocessing: Preprocessing, augment: AugmentSettings) -> None:
        from torchvision.transforms import v2  # imports torch._dynamo, which evaluation can do without

        self.preprocessing, self.augment = preprocessing, augment
        self.crop = _crop_kind(preprocessing, augment)
        size, scale = preprocessing.image_size, augment.crop_scale
        self.resized_crop = v2.RandomResizedCrop(size, scale=scale)
        self._resampling = _RESAMPLING[preprocessing.interpolation]
        self.color_steps = _color_steps(augment)
        self.normalize = Normalize(preprocessing.mean, preprocessing.std)
        self.random_erasing = v2.RandomErasing(p=augment.erasing) if augment.erasing else None

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 size size"]:
        pixels, erased = self.pixels(image)
        return erase(self.normalize(pixels[None]), [erased])[0]

    def pixels(self, image: Image.Image) -> tuple[UInt8[Tensor, "3 size size"], Rectangle | None]:
        """Return the augmented pixels before normalization, and the rectangle to erase after it, if any.

        Args:
            image: RGB image of any size.
        """
        image = self.crop_randomly(image)
        if self.augment.hflip and torch.rand(()).item() < self.augment.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for step in self.color_steps:
            image = step(image)
        return image_pixels(image), self._erased(image)

    def _erased(self, image: Image.Image) -> Rectangle | None:
        """Draw the rectangle of random erasing as torchvision's transform does."""
        if self.random_erasing is None or torch.rand(1) >= self.random_erasing.p:
            return None
        drawn = self.random_erasing.make_params([image])
        return None if drawn["v"] is None else (drawn["i"], drawn["j"], drawn["h"], drawn["w"])

    def crop_randomly(self, image: Image.Image) -> Image.Image:
        """Return `image`, an RGB image, cropped at random to the input size of the network."""
        if self.crop == "resized":
            drawn = self.resized_crop.make_params([image])
            left, top = drawn["left"], drawn["top"]
            part = image.crop((left, top, left + drawn["width"], top + drawn["height"]))
            size = self.preprocessing.image_size
            return part if part.size == (size, size) else part.resize((size, size), self._resampling)
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


@dataclass(frozen=True)
class Normalize:
    """uint8 pixels to float32: scaled to [0, 1], minus mean, divided by std, with equal bits on every device.

    Args:
        mean: Mean of each of the three channels, 0 to 1.
        std: Standard deviation of each of the three channels, above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n 3 height width"]:
        if pixels.device.type == "cpu":
            return torch.from_numpy(self._with_numpy(pixels.numpy()))
        mean, std = (_constant(values, pixels.device).view(3, 1, 1) for values in (self.mean, self.std))
        return _scale(pixels.to(torch.float32, memory_format=torch.contiguous_format)).sub_(mean).div_(std)

    def _with_numpy(self, pixels: np.ndarray) -> np.ndarray:
        """The same in one thread: those of torch would wait for the cores that data-loader workers keep busy."""
        mean, std = (np.array(values, dtype=np.float32).reshape(3, 1, 1) for values in (self.mean, self.std))
        normalized = np.empty(pixels.shape, dtype=np.float32)
        for target, image in zip(normalized, pixels, strict=True):  # one image at a time stays in the cache
            target[...] = image
            target /= np.float32(255)
            target -= mean
            target /= std
        return normalized


def unit_range(pixels: UInt8[Tensor, "3 height width"]) -> Float[Tensor, "3 height width"]:
    """Return the uint8 `pixels` as contiguous float32 in [0, 1], with equal bits on every device."""
    return _scale(pixels.to(torch.float32, memory_format=torch.contiguous_format))


def _scale(values: Tensor) -> Tensor:
    """Divide by 255 in place: by a tensor, since CUDA multiplies by the rounded reciprocal of a Python number."""
    return values.div_(_constant((255.0,), values.device))


@lru_cache(maxsize=32)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)


def erase(images: Float[Tensor, "n c h w"], rectangles: Sequence[Rectangle | None]) -> Float[Tensor, "n c h w"]:
    """Set a rectangle of normalized images to 0, in place.

    Reference: Z. Zhong et al., "Random erasing data augmentation", arXiv 1708.04896.

    Args:
        images: Normalized images.
        rectangles: Rectangle of each image; None for none. May be empty if no image has one.

    Returns:
        The images.
    """
    for number, rectangle in enumerate(rectangles):
        if rectangle is not None:
            top, left, height, width = rectangle
            images[number, :, top : top + height, left : left + width] = 0
    return images


def image_pixels(image: Image.Image) -> UInt8[Tensor, "3 height width"]:
    """Return the pixels of the RGB image `image`; in memory, the channels of a pixel are neighbors."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize the short side (or both sides) to `resize`, then center crop to `image_size`.

    Args:
        image: RGB image.
        preprocessing: Sizes, crop mode and interpolation.

    Returns:
        RGB image of `image_size` x `image_size` pixels.
    """
    size = preprocessing.image_size
    if preprocessing.crop_mode == "center":
        middle = _middle(image.size)
        image = image if middle == (0, 0, *image.size) else image.crop(middle)
    width, height = scaled = _scaled_size(image.size, preprocessing)
    if image.size != scaled:
        image = image.resize(scaled, _RESAMPLING[preprocessing.interpolation])
    if scaled == (size, size):
        return image
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def crop_region(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """Return the part of an image that `resize_and_crop` keeps.

    Args:
        size: Width and height of the image in pixels.
        preprocessing: Sizes and crop mode.

    Returns:
        Left, top, right and bottom, as fractions of width and height.
    """
    start_x, start_y, end_x, end_y = _middle(size) if preprocessing.crop_mode == "center" else (0, 0, *size)
    inner = (end_x - start_x, end_y - start_y)
    edges = []
    for start, length, whole, scaled in zip(
        (start_x, start_y), inner, size, _scaled_size(inner, preprocessing), strict=True
    ):
        first = round((scaled - preprocessing.image_size) / 2)
        last = first + preprocessing.image_size
        edges.append([(start + pixel * length / scaled) / whole for pixel in (first, last)])
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _scaled_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height of an image before the center crop."""
    width, height = size
    short = preprocessing.resize or preprocessing.image_size
    if preprocessing.crop_mode == "squash":
        return short, short
    # As in torchvision: the product first, so that no rounding of the ratio can cost a pixel.
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short


def _middle(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Crop box of very long images: resizing a line of 5,000 x 1 pixels would need 1,120,000 x 224."""
    width, height = size
    longest = _LONGEST * min(width, height)
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return left, top, min(width, left + longest), min(height, top + longest)


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


def _color_steps(augment: AugmentSettings) -> "list[v2.Transform]":
    from torchvision.transforms import InterpolationMode, v2

    steps: list[v2.Transform] = []
    if augment.auto_augment == "randaugment":
        steps.append(v2.RandAugment(magnitude=augment.ra_magnitude, interpolation=InterpolationMode.BILINEAR))
    if augment.auto_augment == "trivialaugment":
        steps.append(v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR))
    if strength := augment.color_jitter:
        steps.append(v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength))
    return steps
