"""Images to predict: files, folders, shards, PIL images, arrays and tensors."""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gcnet.data.images.find_inputs import find_inputs
from gcnet.data.images.image_input import ImageInput
from gcnet.errors import UserError

Images = Any
"""One image or several: a path, PIL image, array or tensor, or an iterable of them; see `image_inputs`."""

_CHANNELS = (1, 3, 4)


def image_inputs(images: Images, *, note: Callable[[str], None] = lambda _: None) -> list[ImageInput]:
    """Return the images to predict, in order.

    Args:
        images: an image or several, nested in any way. An image is a file, also at a URL; a PIL image; an RGB, RGBA or
            gray array (H, W) or (H, W, channels) uint8; or an RGB or gray tensor (channels, H, W), uint8 or floating
            point from 0 to 1, not normalized. Arrays and tensors with one more axis are batches. A folder stands for
            the images in it, and a shard (.tar) for those of its samples.
        note: called with a sentence on skipped files of other formats.

    Returns:
        The images; arrays and tensors are converted to PIL images, with 8 bits per channel.

    Raises:
        UserError: a path does not exist, a folder has no images, or an array or tensor is of another kind.
    """
    inputs: list[ImageInput] = []
    for image in _flat(images):
        if isinstance(image, ImageInput):
            inputs.append(image)
        elif isinstance(image, Path):
            inputs += find_inputs([image], note=note)
        else:
            inputs.append(ImageInput(f"image {len(inputs) + 1}", image))
    return inputs


def _flat(images: Any) -> Iterator[Path | Image.Image | ImageInput]:
    if isinstance(images, str) and not images:
        raise UserError("paths of images must not be empty")
    if isinstance(images, str | Path):
        yield Path(images)
    elif isinstance(images, ImageInput):
        yield images
    elif isinstance(images, Image.Image):
        _require_pixels((images.height, images.width), "image")
        yield images
    elif isinstance(images, np.ndarray):
        yield from _of_array(images)
    elif isinstance(images, Tensor):
        yield from _of_tensor(images)
    elif isinstance(images, Iterable) and not isinstance(images, bytes | dict | io.IOBase):
        for one in images:
            yield from _flat(one)
    else:
        raise UserError(
            "images must be paths, PIL images, arrays (H, W, 3) or tensors (3, H, W), or sequences of them; found "
            f"{type(images).__name__}"
        )


def _of_array(array: np.ndarray) -> Iterator[Image.Image]:
    is_batch = array.ndim == 4
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim in (3, 4) and array.shape[-1] in _CHANNELS)):
        raise UserError(
            "arrays of images must be uint8 (H, W), (H, W, channels) or (N, H, W, channels) with 1, 3 or 4 channels; "
            f"found {array.dtype} {array.shape}"
        )
    for image in array if is_batch else [array]:
        _require_pixels(image.shape, "array")
        yield Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2:] == (1,) else image))


def _of_tensor(tensor: Tensor) -> Iterator[Image.Image]:
    is_float = tensor.is_floating_point()
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise UserError("tensors of images must hold their values, found a sparse, quantized or meta tensor")
    if tensor.dim() not in (3, 4) or tensor.shape[-3] not in (1, 3) or not (is_float or tensor.dtype == torch.uint8):
        raise UserError(
            "tensors of images must be uint8 or floating point (3, H, W), or (N, 3, H, W); found "
            f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        )
    for image in tensor.detach() if tensor.dim() == 4 else [tensor.detach()]:
        _require_pixels(tuple(image.shape), "tensor")
        if is_float:
            image = _levels(image)
        yield from _of_array(image.permute(1, 2, 0).cpu().numpy())


def _levels(image: Tensor) -> Tensor:
    """A floating-point image in 8 bits."""
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        raise UserError(
            "floating-point tensors of images must be from 0 to 1, not normalized; found values from "
            f"{low:g} to {high:g}"
        )
    return (image.float() * 255).round().to(torch.uint8)


def _require_pixels(shape: tuple[int, ...], kind: str) -> None:
    if 0 in shape:
        raise UserError(f"an image has at least one pixel, found {'a' if kind == 'tensor' else 'an'} {kind} {shape}")
