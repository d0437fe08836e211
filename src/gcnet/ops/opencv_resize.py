"""Bilinear resizing of 8-bit images with the fixed-point arithmetic of OpenCV."""

from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

_ROWS = 32
"""Rows of the output that are computed at a time on the CPU, so that intermediate results stay in the cache."""

Taps = tuple[Tensor, Tensor, Tensor, Tensor]


def resize_bilinear(
    image: UInt8[Tensor, "channels height width"], height: int, width: int
) -> UInt8[Tensor, "channels new_height new_width"]:
    """Resize an image as `cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)`, bit for bit.

    Where OpenCV is installed and computes the same, it resizes images on the CPU; the result does not depend on it.

    Args:
        image: 8-bit image on any device.
        height: of the result in pixels, at least 1.
        width: of the result in pixels, at least 1.

    Returns:
        The resized image, contiguous, on the same device.

    Reference:
        OpenCV, modules/imgproc/src/resize.cpp: positions in float32 from a float64 scale, weights in multiples of
        1/2048, rows first and without rounding, then columns with two truncations.

    Example:
        >>> resize_bilinear(torch.tensor([[[0, 100]]], dtype=torch.uint8), 1, 4)
        tensor([[[  0,  25,  75, 100]]], dtype=torch.uint8)
    """
    if image.is_meta:
        return image.new_empty(image.shape[0], height, width)
    opencv = _opencv() if image.device.type == "cpu" else None
    if opencv is None:
        return resize_fixed_point(image, height, width)
    return _resize_planes(opencv, image, height, width)


def resize_fixed_point(
    image: UInt8[Tensor, "channels height width"], height: int, width: int
) -> UInt8[Tensor, "channels new_height new_width"]:
    """Return the result of `resize_bilinear`, computed in integer arithmetic of PyTorch.

    Args:
        image: 8-bit image on any device.
        height: of the result in pixels, at least 1.
        width: of the result in pixels, at least 1.

    Returns:
        The resized image, contiguous, on the same device.
    """
    columns = _taps(image.shape[2], image.shape[2] / width, width, clip_weights=True, device=image.device)
    upper, lower, upper_weight, lower_weight = _taps(
        image.shape[1], image.shape[1] / height, height, clip_weights=False, device=image.device
    )
    result = image.new_empty(image.shape[0], height, width)
    count = _ROWS if image.device.type == "cpu" else height
    for start in range(0, height, count):
        part = slice(start, start + count)
        rows = upper[part], lower[part], upper_weight[part], lower_weight[part]
        result[:, part] = _resize_rows(image, rows, columns)
    return result


def resize_batch_of_any_size(
    images: Float[Tensor, "n c h w"], scales: tuple[Tensor, Tensor], counts: tuple[int, int]
) -> Float[Tensor, "n c rows columns"]:
    """Return the result of `resize_bilinear` for images whose new size is computed in an exported graph.

    All numbers are whole and below 2^24, exact in float32: ONNX has no shifts of signed integers.

    Args:
        images: whole numbers from 0 to 255, float32.
        scales: old over new height and width, float64 ().
        counts: number of rows and columns of the result; those beyond the new size repeat the border.

    Returns:
        The resized images, whole numbers in float32.
    """
    upper, lower, *down = _taps(images.shape[2], scales[0], counts[0], clip_weights=False)
    left, right, *across = _taps(images.shape[3], scales[1], counts[1], clip_weights=True)
    first, second = (images.index_select(3, tap) * weight for tap, weight in zip((left, right), across, strict=True))
    rows = ((first + second) / 16).floor()
    above, below = (
        _scaled(rows.index_select(2, tap), weight[:, None]) for tap, weight in zip((upper, lower), down, strict=True)
    )
    return ((above + below + 2) / 4).floor()


def _scaled(values: Float[Tensor, "n c h w"], weights: Int[Tensor, "h 1"]) -> Float[Tensor, "n c h w"]:
    """`floor(values * weights / 65536)`, with weights up to 2048 = 32 * 64 in two parts to stay below 2^24."""
    high, low = weights // 64, weights % 64
    return ((values * high + (values * low / 64).floor()) / 1024).floor()


def _resize_rows(image: UInt8[Tensor, "channels height width"], rows: Taps, columns: Taps) -> Int[Tensor, "c h w"]:
    """Rows of the result, given their taps and those of all columns."""
    upper, lower, upper_weight, lower_weight = rows
    source, upper, lower = _source_rows(image, upper, lower)
    across = _resize_columns(source, columns)
    above = across.index_select(1, upper).mul_(upper_weight[:, None]).bitwise_right_shift_(16)
    below = across.index_select(1, lower).mul_(lower_weight[:, None]).bitwise_right_shift_(16)
    return above.add_(below).add_(2).bitwise_right_shift_(2)


def _source_rows(image: Tensor, upper: Tensor, lower: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of the image that are used, and the indices `upper` and `lower` into them."""
    first, last = int(upper[0]), int(lower[-1])
    if last - first < 2 * len(upper):
        return image[:, first : last + 1], upper - first, lower - first
    used = image.index_select(1, torch.cat((upper, lower)))
    indices = torch.arange(len(upper), device=image.device)
    return used, indices, indices + len(upper)


def _resize_columns(source: UInt8[Tensor, "channels rows width"], columns: Taps) -> Int[Tensor, "c h w"]:
    """Interpolate along rows, in units of 1/128."""
    left, right, left_weight, right_weight = columns
    pairs = source.to(torch.int32)
    # The pixel in the low 16 bits and its right neighbor in the high ones: one gather instead of two.
    pairs[..., :-1] |= pairs[..., 1:] << 16
    pairs[..., -1] *= 1 + (1 << 16)
    found = pairs.gather(2, left.expand(*source.shape[:2], -1))
    second = (found >> 16).mul_(right_weight)
    return found.bitwise_and_(0xFFFF).mul_(left_weight).add_(second).bitwise_right_shift_(4)


def _taps(
    old: int, scale: float | Tensor, count: int, *, clip_weights: bool, device: torch.device | None = None
) -> Taps:
    """Source index of the first and second pixel of each new one, and their weights in units of 1/2048, int32.

    Args:
        old: length of the axis.
        scale: old length over new length, in float64.
        count: number of new pixels.
        clip_weights: beyond the border the second weight is 0, as along rows; along columns indices alone are clipped.
        device: of the result.
    """
    positions = ((torch.arange(count, dtype=torch.float64, device=device) + 0.5) * scale - 0.5).float()
    first = positions.floor()
    fraction = positions - first
    if clip_weights:
        fraction = torch.where((first < 0) | (first >= old - 1), 0.0, fraction)
    upper, lower = (index.clamp(0, old - 1).long() for index in (first, first + 1))
    weights = [(part * 2048).round().int() for part in (1 - fraction, fraction)]
    return upper, lower, weights[0], weights[1]


def _resize_planes(opencv: Any, image: Tensor, height: int, width: int) -> Tensor:
    """`resize_bilinear` by OpenCV, channel by channel."""
    result = image.new_empty(image.shape[0], height, width)
    for plane, resized in zip(image.contiguous().numpy(), result.numpy(), strict=True):
        opencv.resize(plane, (width, height), dst=resized, interpolation=opencv.INTER_LINEAR)
    return result


@cache
def _opencv() -> Any:
    """OpenCV, None where it is not installed or computes otherwise, as builds for other processors may."""
    try:
        import cv2
    except ImportError:
        return None
    generator = np.random.default_rng(0)
    image = torch.from_numpy(generator.integers(0, 256, (3, 37, 53), dtype=np.uint8))
    sizes = ((61, 97), (23, 29))
    same = (torch.equal(_resize_planes(cv2, image, *size), resize_fixed_point(image, *size)) for size in sizes)
    return cv2 if all(same) else None
