"""Resizing and rounding of images as in mmdet, and pasting of masks at pixel centers."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from gcnet.ops.bits import take_bits

_MASKS = ("masks", "mask_bits")


class PackedMasksTransform(GeneralizedRCNNTransform):
    """torchvision's resizing, whose targets may hold masks packed into bits; the numbers are torchvision's."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """The image at its new size, and its boxes and masks with it."""
        old = image.shape[-2:]
        masks = {} if target is None else {name: target.pop(name) for name in _MASKS if name in target}
        image, target = super().resize(image, target)
        if target is not None:
            target |= masks
            resize_masks(target, old, image.shape[-2:])
        return image, target


class RoundedTransform(GeneralizedRCNNTransform):
    """mmdet's resizing: sides rounded to the nearest pixel, whole grey levels, normalised afterwards.

    mmdet resizes 8-bit images with OpenCV, bilinear, so that each pixel is a whole number again. Images are (3, H, W)
    in [0, 1]; here they are resized in floating point and rounded to 1/255, which differs from OpenCV's fixed-point
    arithmetic by one grey level at most.
    """

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """The batch of padded images and their targets, which are not changed themselves."""
        for image in images:
            if image.dim() != 3 or not image.is_floating_point():
                raise ValueError(
                    f"images must be floating-point (3, H, W) in [0, 1], found {image.dtype} {tuple(image.shape)}"
                )
        return super().forward(images, targets)

    def normalize(self, image: Tensor) -> Tensor:
        """Nothing yet: `resize` normalises what it has resized."""
        return image

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """The image at its new size, normalised, and its boxes and masks with it."""
        old = image.shape[-2:]
        shorts: Any = self.min_size
        short = self.torch_choice(list(shorts)) if self.training else shorts[-1]
        new = rescaled(old[0], old[1], short, self.max_size)
        if new != tuple(old):
            image = F.interpolate(image[None], new, mode="bilinear", align_corners=False)[0]
            image = (image * 255).round() / 255
        image = super().normalize(image)
        if target is not None:
            target["boxes"] = resize_boxes(target["boxes"], list(old), list(new))
            resize_masks(target, old, new)
        return image, target

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Boxes in pixels of the original image, and masks (N, 1, H, W) of probabilities over it."""
        if self.training:
            return result
        for found, shape, original in zip(result, image_shapes, original_image_sizes, strict=True):
            found["boxes"] = resize_boxes(found["boxes"], list(shape), list(original))
            if "masks" in found:
                found["masks"] = paste_masks(found["masks"], found["boxes"], *original)
        return result


def resize_masks(target: dict[str, Tensor], old: Sequence[int], new: Sequence[int]) -> None:
    """Resize the masks of a target in place, to the nearest pixel as `interpolate` does, without floating-point copies.

    Args:
        target: with `masks` uint8 (n, H, W) of 0 and 1, or `mask_bits`, the same packed as `gcnet.ops.bits` says,
            which become `masks`; or without either.
        old: height and width of the masks.
        new: height and width to resize to.
    """
    device = target["boxes"].device
    rows, columns = (_nearest(*sides, device=device) for sides in zip(old, new, strict=True))
    if "mask_bits" in target:
        target["masks"] = take_bits(target.pop("mask_bits")[:, rows], columns)
    elif "masks" in target:
        target["masks"] = target["masks"][:, rows][:, :, columns]


def _nearest(old: int, new: int, *, device: torch.device) -> Int[Tensor, " new"]:
    """The index of the pixel that each new pixel of an axis is taken from."""
    places = torch.arange(old, dtype=torch.float32, device=device)
    return F.interpolate(places[None, None], new)[0, 0].long()


def rescaled(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """Height and width with a short side of `short`, or a long one of `long` if that is smaller, to the nearest."""
    scale = min(long / max(height, width), short / min(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def paste_masks(
    masks: Float[Tensor, "n 1 side side"], boxes: Float[Tensor, "n 4"], height: int, width: int
) -> Float[Tensor, "n 1 height width"]:
    """Each mask stretched over its box and sampled at the centres of the image's pixels, bilinear, zero outside."""
    side = masks.shape[-1]
    pasted = masks.new_zeros(len(masks), 1, height, width)
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        if right <= left or bottom <= top:
            continue
        rows, columns = _pixels(top, bottom, side, height), _pixels(left, right, side, width)
        down = torch.arange(rows.start, rows.stop, dtype=masks.dtype, device=masks.device) + 0.5
        across = torch.arange(columns.start, columns.stop, dtype=masks.dtype, device=masks.device) + 0.5
        places = (across - left) / (right - left) * 2 - 1, (down - top) / (bottom - top) * 2 - 1
        grid = torch.stack(torch.meshgrid(*places, indexing="xy"), dim=-1)  # (rows, columns, 2)
        pasted[number, :, rows, columns] = F.grid_sample(masks[number, None], grid[None], align_corners=False)[0]
    return pasted


def _pixels(start: float, stop: float, side: int, length: int) -> slice:
    """The pixels of an axis that a box from `start` to `stop`, and half a cell of its mask around it, reaches."""
    half = (stop - start) / side / 2
    return slice(min(max(math.floor(start - half), 0), length), min(max(math.ceil(stop + half), 0), length))
