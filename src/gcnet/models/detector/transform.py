"""Resizing of images and targets, and scaling back of detections, of each implementation."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from gcnet.models.detector.coordinates import PIXELS
from gcnet.models.detector.mask_pasting import paste_masks, paste_masks_in_pixels
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
        scale = resizing_scale(old[0], old[1], min_size=short, max_size=self.max_size)
        new = resized_shape(old[0], old[1], scale)
        if new != tuple(old):
            levels = (image * 255).round_().clamp_(0, 255).to(torch.uint8)
            image = resize_bilinear(levels, *new).to(image.dtype).div_(255)
        image = super().normalize(image)
        if target is not None:
            target["boxes"] = self._resize_boxes(target["boxes"], old, new, scale)
            resize_masks(target, old, new)
        return image, target

    def _resize_boxes(
        self,
        boxes: Float[Tensor, "k 4"],
        old: Sequence[int],
        new: Sequence[int],
        scale: float,  # noqa: ARG002
    ) -> Float[Tensor, "k 4"]:
        return resize_boxes(boxes, list(old), list(new))

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


class ScaledShape(tuple[int, int]):
    """Height and width of a resized image in pixels.

    Args:
        shape: height and width.
        scale: factor by which the image was resized.
    """

    def __new__(cls, shape: tuple[int, int], scale: float) -> "ScaledShape":
        resized = super().__new__(cls, shape)
        resized.scale = scale
        return resized


class PixelTransform(RoundedTransform):
    """Transform of mmdet 1, inside of which right and bottom of a box are its last pixel, scaled by one factor.

    Targets and results are edges as in the other transforms.
    """

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """Resize, normalize and pad a batch.

        Args:
            images: floats (3, H, W) in [0, 1].
            targets: as for `resize`, one per image; not modified.

        Returns:
            The padded batch (N, 3, H', W'), with the `ScaledShape` of its images, and the resized targets, whose masks
            are also padded with zeros.
        """
        batch, resized = super().forward(images, targets)
        shorts: Any = self.min_size
        sizes = {"min_size": shorts[-1], "max_size": self.max_size}
        batch.image_sizes = [
            ScaledShape(shape, resizing_scale(*image.shape[-2:], **sizes))
            for shape, image in zip(batch.image_sizes, images, strict=True)
        ]
        return batch, resized

    def _resize_boxes(
        self,
        boxes: Float[Tensor, "k 4"],
        old: Sequence[int],  # noqa: ARG002
        new: Sequence[int],
        scale: float,
    ) -> Float[Tensor, "k 4"]:
        first, last = PIXELS.clip(PIXELS.from_edges(boxes) * scale, (new[0], new[1])).split(2, dim=1)
        return torch.cat([first, torch.maximum(first, last)], dim=1)  # mmdet drops objects below one pixel

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[Any],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Scale detections back to the original images.

        Args:
            result: detections of each image; `boxes` (D, 4), as left, top, right, bottom pixel, and, optionally,
                `masks` (D, 1, M, M).
            image_shapes: `ScaledShape` of each resized image.
            original_image_sizes: height and width of each original image.

        Returns:
            The detections, with `boxes` as edges in pixels of the original image and `masks` (D, 1, H, W),
            probabilities.
        """
        if self.training:
            return result
        for detections, shape, original in zip(result, image_shapes, original_image_sizes, strict=True):
            boxes = detections["boxes"] / shape.scale
            if "masks" in detections:
                detections["masks"] = paste_masks_in_pixels(detections["masks"], boxes, *original)
            detections["boxes"] = PIXELS.edges(boxes)
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


def resizing_scale(height: int, width: int, *, min_size: int, max_size: int) -> float:
    """Return the factor by which an image is resized: to the short side, or less to keep the long side.

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
        min_size: target of the short side in pixels.
        max_size: most pixels of the long side.
    """
    return min(max_size / max(height, width), min_size / min(height, width))


def resized_shape(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return height and width after resizing, rounded to the nearest pixel and at least 1.

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
        scale: factor, above 0.
    """
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)
