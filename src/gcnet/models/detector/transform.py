"""Resizing and rounding of images as in mmdet, and mask pasting at pixel centers."""

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
from gcnet.ops.opencv_resize import resize_bilinear

_MASKS = ("masks", "mask_bits")


class PackedMasksTransform(GeneralizedRCNNTransform):
    """torchvision's transform, with the same results, for targets whose masks may be packed into bits."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Resize an image and its target.

        Args:
            image: float (3, H, W).
            target: `boxes` (K, 4) in pixels and, optionally, `masks` or `mask_bits` (see `resize_masks`).

        Returns:
            The image (3, H', W') and the resized target.
        """
        old = image.shape[-2:]
        masks = {} if target is None else {name: target.pop(name) for name in _MASKS if name in target}
        image, target = super().resize(image, target)
        if target is not None:
            target |= masks
            resize_masks(target, old, image.shape[-2:])
        return image, target


class RoundedTransform(GeneralizedRCNNTransform):
    """mmdet's transform: sides rounded to the nearest pixel, 8-bit resizing as in OpenCV, normalization after resizing.

    Images that are resized are rounded to 8 bits first: multiples of 1/255, which decoded images are, stay as they are.
    """

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """Resize, normalize and pad a batch.

        Args:
            images: floats (3, H, W) in [0, 1].
            targets: as for `resize`, one per image; not modified.

        Returns:
            The padded batch (N, 3, H', W') with the sizes of its images, and the resized targets, whose masks are also
            padded with zeros.

        Raises:
            ValueError: an image is not a floating-point (3, H, W) tensor.
        """
        for image in images:
            if image.dim() != 3 or not image.is_floating_point():
                raise ValueError(
                    f"images must be floating-point (3, H, W) in [0, 1], found {image.dtype} {tuple(image.shape)}"
                )
        batch, resized = super().forward(images, targets)
        height, width = batch.tensors.shape[-2:]
        for target in resized or ():
            if "masks" in target:
                bottom, right = height - target["masks"].shape[-2], width - target["masks"].shape[-1]
                target["masks"] = F.pad(target["masks"], (0, right, 0, bottom))
        return batch, resized

    def normalize(self, image: Tensor) -> Tensor:
        """Return `image` (3, H, W) unchanged: `resize` normalizes after resizing."""
        return image

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Resize and normalize an image, and resize its target.

        Args:
            image: float (3, H, W) in [0, 1].
            target: `boxes` (K, 4) in pixels and, optionally, `masks` or `mask_bits` (see `resize_masks`).

        Returns:
            The image (3, H', W') and the resized target.
        """
        old = image.shape[-2:]
        shorts: Any = self.min_size
        short = self.torch_choice(list(shorts)) if self.training else shorts[-1]
        new = resized_shape(old[0], old[1], min_size=short, max_size=self.max_size)
        if new != tuple(old):
            levels = (image * 255).round_().clamp_(0, 255).to(torch.uint8)
            image = resize_bilinear(levels, *new).to(image.dtype).div_(255)
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
        """Scale detections back to the original images.

        Args:
            result: detections of each image; `boxes` (D, 4) and, optionally, `masks` (D, 1, M, M).
            image_shapes: height and width of each resized image.
            original_image_sizes: height and width of each original image.

        Returns:
            The detections, with `boxes` in pixels of the original image and `masks` (D, 1, H, W), probabilities.
        """
        if self.training:
            return result
        for detections, shape, original in zip(result, image_shapes, original_image_sizes, strict=True):
            detections["boxes"] = resize_boxes(detections["boxes"], list(shape), list(original))
            if "masks" in detections:
                detections["masks"] = paste_masks(detections["masks"], detections["boxes"], *original)
        return result


def resize_masks(target: dict[str, Tensor], old: Sequence[int], new: Sequence[int]) -> None:
    """Resize the masks of a target in place by nearest-neighbor interpolation, without floating-point copies.

    Args:
        target: with `masks` (K, H, W) uint8 of 0 and 1; or `mask_bits` (K, H, ceil(W / 8)) uint8, packed as in
            `gcnet.ops.bits`, which are replaced by `masks`; or without either. `boxes` gives the device.
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
    """Source index of each pixel of a resized axis."""
    indices = torch.arange(old, dtype=torch.float32, device=device)
    return F.interpolate(indices[None, None], new)[0, 0].long()


def resized_shape(height: int, width: int, *, min_size: int, max_size: int) -> tuple[int, int]:
    """Return height and width after resizing with a fixed aspect ratio, rounded to the nearest pixel.

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
        min_size: target of the short side in pixels.
        max_size: most pixels of the long side.
    """
    scale = min(max_size / max(height, width), min_size / min(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


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


def _pixels(start: float, stop: float, side: int, length: int) -> slice:
    """The pixels of an axis covered by a box from `start` to `stop`, with a margin of half a mask cell."""
    half = (stop - start) / side / 2
    return slice(min(max(math.floor(start - half), 0), length), min(max(math.ceil(stop + half), 0), length))
