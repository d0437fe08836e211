"""Bilinear resizing of 8-bit images with the fixed-point arithmetic of OpenCV."""

from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
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
    columns = _taps(image.shape[2], width, clip_weights=True, device=image.device)
    upper, lower, upper_weight, lower_weight = _taps(image.shape[1], height, clip_weights=False, device=image.device)
    result = image.new_empty(image.shape[0], height, width)
    count = _ROWS if image.device.type == "cpu" else height
    for start in range(0, height, count):
        part = slice(start, start + count)
        rows = upper[part], lower[part], upper_weight[part], lower_weight[part]
        result[:, part] = _resize_rows(image, rows, columns)
    return result


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


def _taps(old: int, new: int, *, clip_weights: bool, device: torch.device) -> Taps:
    """Source index of the first and second pixel of each new one, and their weights in units of 1/2048, int32.

    Args:
        old: length of the axis.
        new: length after resizing.
        clip_weights: beyond the border the second weight is 0, as along rows; along columns indices alone are clipped.
        device: of the result.
    """
    positions = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    first = np.floor(positions).astype(np.int64)
    fraction = positions - first.astype(np.float32)
    if clip_weights:
        fraction[(first < 0) | (first >= old - 1)] = 0
    indices = (np.clip(first, 0, old - 1), np.clip(first + 1, 0, old - 1))
    weights = (np.rint(part * np.float32(2048)).astype(np.int32) for part in (np.float32(1) - fraction, fraction))
    upper, lower, *both = (torch.from_numpy(tap).to(device) for tap in (*indices, *weights))
    return upper, lower, both[0], both[1]


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
