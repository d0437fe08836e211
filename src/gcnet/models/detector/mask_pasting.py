"""Pasting of predicted masks into images."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def paste_masks(
    masks: Float[Tensor, "n 1 side side"], boxes: Float[Tensor, "n 4"], height: int, width: int
) -> Float[Tensor, "n 1 height width"]:
    """Paste masks into images: resize each to its box, sampled bilinearly at pixel centers, zero outside.

    Args:
        masks: probabilities on a square grid.
        boxes: left, top, right, bottom in pixels.
        height: of the image in pixels.
        width: of the image in pixels.

    Returns:
        Probabilities over the image.
    """
    side = masks.shape[-1]
    pasted = masks.new_zeros(len(masks), 1, height, width)
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        if right <= left or bottom <= top:
            continue
        rows, columns = _pixels(top, bottom, side, height), _pixels(left, right, side, width)
        down = torch.arange(rows.start, rows.stop, dtype=masks.dtype, device=masks.device) + 0.5
        across = torch.arange(columns.start, columns.stop, dtype=masks.dtype, device=masks.device) + 0.5
        relative = (across - left) / (right - left) * 2 - 1, (down - top) / (bottom - top) * 2 - 1
        grid = torch.stack(torch.meshgrid(*relative, indexing="xy"), dim=-1)  # (rows, columns, 2)
        pasted[number, :, rows, columns] = F.grid_sample(masks[number, None], grid[None], align_corners=False)[0]
    return pasted


def paste_masks_in_pixels(
    masks: Float[Tensor, "n 1 side side"], boxes: Float[Tensor, "n 4"], height: int, width: int
) -> Float[Tensor, "n 1 height width"]:
    """Paste masks into images as mmdet 1: resize each to the whole pixels of its box, zero outside.

    Args:
        masks: probabilities on a square grid.
        boxes: left, top, right, bottom pixel inside the image; fractions are dropped.
        height: of the image in pixels.
        width: of the image in pixels.

    Returns:
        Probabilities over the image.
    """
    pasted = masks.new_zeros(len(masks), 1, height, width)
    for number, (left, top, right, bottom) in enumerate(boxes.int().tolist()):
        size = max(bottom - top + 1, 1), max(right - left + 1, 1)
        resized = F.interpolate(masks[number, None], size, mode="bilinear", align_corners=False)[0]
        pasted[number, :, top : top + size[0], left : left + size[1]] = resized
    return pasted


def _pixels(start: float, stop: float, side: int, length: int) -> slice:
    """The pixels of an axis covered by a box from `start` to `stop`, with a margin of half a mask cell."""
    half = (stop - start) / side / 2
    return slice(min(max(math.floor(start - half), 0), length), min(max(math.ceil(stop + half), 0), length))
