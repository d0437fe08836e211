"""Resizing of images, and scaling back of detections, in exported graphs for images of any size.

New sizes are float64 tensors, computed as in `gcnet.models.detector.transform`. Only the padded size, in multiples of
32, is a size of the graph.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from gcnet.models.detector.coordinates import PIXELS
from gcnet.models.detector.transform import PixelTransform, RoundedTransform
from gcnet.ops.opencv_resize import resize_batch_of_any_size

_MULTIPLE = 32  # sides of padded images are multiples of it


class ResizedShape(NamedTuple):
    """Shape of the resized images of a batch.

    Attributes:
        size: height and width in pixels, float32 scalars.
        scale: factor by which the images were resized, before rounding; a float64 scalar.
        ratios: original over resized height and width, float64 scalars.
    """

    size: tuple[Tensor, Tensor]
    scale: Tensor
    ratios: tuple[Tensor, Tensor]


class StaticTransform(nn.Module, ABC):
    """Transform of a detector for images of one size.

    Args:
        transform: the transform in evaluation mode.

    Attributes:
        mask_border: value of masks beyond their outermost cells, to paste them: "zero", or "edge", that of the cell.
    """

    mean: Tensor
    std: Tensor
    mask_border: str

    def __init__(self, transform: GeneralizedRCNNTransform) -> None:
        super().__init__()
        sides: Any = transform.min_size, transform.max_size
        self.short, self.long = sides[0][-1], sides[1]
        self.register_buffer("mean", torch.tensor(transform.image_mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(transform.image_std)[:, None, None], persistent=False)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n 3 h2 w2"], ResizedShape]:
        """Resize and normalize images, and pad them to multiples of 32 pixels.

        Args:
            images: in [0, 1].

        Returns:
            The padded images (N, 3, H', W'), and the shape of the resized images.
        """
        sides = [torch.scalar_tensor(side, dtype=torch.float64) for side in images.shape[2:]]
        short, long = torch.minimum(*sides), torch.maximum(*sides)
        scale = torch.minimum(torch.full_like(long, self.long) / long, torch.full_like(short, self.short) / short)
        resized = [self._rounded(side * scale).clamp(min=1) for side in sides]
        counts = [_MULTIPLE * _size((side / _MULTIPLE).ceil()) for side in resized]
        ratios = sides[0] / resized[0], sides[1] / resized[1]
        rows, columns = (torch.arange(count) < side for count, side in zip(counts, resized, strict=True))
        padded = torch.where(rows[:, None] & columns, self._resize(images, ratios, (counts[0], counts[1])), 0.0)
        return padded, ResizedShape((resized[0].float(), resized[1].float()), scale, ratios)

    def _normalize(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    @abstractmethod
    def _rounded(self, side: Tensor) -> Tensor:
        """Round a side to whole pixels."""

    @abstractmethod
    def _resize(self, images: Tensor, ratios: tuple[Tensor, Tensor], counts: tuple[int, int]) -> Tensor:
        """Resize and normalize to a number of rows and columns; those beyond the new size may have any value."""

    def original_boxes(self, boxes: Float[Tensor, "n d 4"], shape: ResizedShape) -> Float[Tensor, "n d 4"]:
        """Scale boxes back to the original images.

        Args:
            boxes: boxes in pixels of the resized images, in the coordinates of the detector.
            shape: shape of the resized images.

        Returns:
            Edges in pixels of the original images.
        """
        down, across = (ratio.to(boxes.dtype) for ratio in shape.ratios)
        return boxes * torch.stack([across, down, across, down])

    @abstractmethod
    def mask_boxes(self, boxes: Float[Tensor, "n d 4"]) -> Float[Tensor, "n d 4"]:
        """Return the edges of the grid of each mask in pixels of the original image.

        Args:
            boxes: results of `original_boxes`.
        """


def _size(value: Tensor) -> Any:
    """A whole number, at least 1, as a size of the graph."""
    size: Any = value.long().item()
    torch._check(size >= 1)
    return size


class StaticRoundedTransform(StaticTransform):
    """`RoundedTransform` for images of one size.

    Args:
        transform: the transform.
    """

    mask_border = "zero"

    def _rounded(self, side: Tensor) -> Tensor:
        return (side + 0.5).floor()

    def _resize(self, images: Tensor, ratios: tuple[Tensor, Tensor], counts: tuple[int, int]) -> Tensor:
        levels = (images * 255).round().clamp(0, 255)
        return self._normalize(resize_batch_of_any_size(levels, ratios, counts) / 255)

    def mask_boxes(self, boxes: Float[Tensor, "n d 4"]) -> Float[Tensor, "n d 4"]:
        return boxes


class StaticPixelTransform(StaticRoundedTransform):
    """`PixelTransform` for images of one size.

    Args:
        transform: the transform.
    """

    mask_border = "edge"

    def original_boxes(self, boxes: Float[Tensor, "n d 4"], shape: ResizedShape) -> Float[Tensor, "n d 4"]:
        return PIXELS.edges(boxes / shape.scale.to(boxes.dtype))

    def mask_boxes(self, boxes: Float[Tensor, "n d 4"]) -> Float[Tensor, "n d 4"]:
        pixels = PIXELS.from_edges(boxes).trunc()
        return PIXELS.edges(torch.cat([pixels[..., :2], torch.maximum(pixels[..., :2], pixels[..., 2:])], dim=-1))


_MASK_SIDE = 28
_BORDERED = (_MASK_SIDE + 2) / _MASK_SIDE


class StaticInterpolatedTransform(StaticTransform):
    """torchvision's transform for images of one size.

    Args:
        transform: the transform.
    """

    mask_border = "zero"

    def _rounded(self, side: Tensor) -> Tensor:
        return side.floor()

    def _resize(self, images: Tensor, ratios: tuple[Tensor, Tensor], counts: tuple[int, int]) -> Tensor:
        resized = self._normalize(images)
        for axis, ratio, count in zip((3, 2), ratios[::-1], counts[::-1], strict=True):
            last = images.shape[axis] - 1
            places = ((torch.arange(count) + 0.5) * ratio.float() - 0.5).clamp(min=0)
            first = places.floor()
            weights = (places - first).reshape(-1, *[1] * (3 - axis))
            lower, upper = (index.clamp(max=last).long() for index in (first, first + 1))
            resized = resized.index_select(axis, lower) * (1 - weights) + resized.index_select(axis, upper) * weights
        return resized

    def mask_boxes(self, boxes: Float[Tensor, "n d 4"]) -> Float[Tensor, "n d 4"]:
        # As `paste_masks_in_image` of torchvision: boxes of masks with a border of one cell, in whole pixels.
        center, half = (boxes[..., :2] + boxes[..., 2:]) * 0.5, (boxes[..., 2:] - boxes[..., :2]) * 0.5 * _BORDERED
        start, stop = (center - half).trunc(), (center + half).trunc()
        size = torch.clamp(stop - start + 1, min=1)
        cell = size / (_MASK_SIDE + 2)
        return torch.cat([start + cell, start + size - cell], dim=-1)


def static_transform(transform: GeneralizedRCNNTransform) -> StaticTransform:
    """Return the transform of a detector for images of one size.

    Args:
        transform: one of `gcnet.models.detector.conventions`.
    """
    kinds = ((PixelTransform, StaticPixelTransform), (RoundedTransform, StaticRoundedTransform))
    kind = next((static for eager, static in kinds if isinstance(transform, eager)), StaticInterpolatedTransform)
    return kind(transform)
