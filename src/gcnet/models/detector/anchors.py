"""Anchors of a detector."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

_CPU = torch.device("cpu")


class RoundedAnchors(AnchorGenerator):
    """torchvision's `AnchorGenerator` in float32 or more: in bfloat16 a corner at 800 pixels is off by up to two."""

    def forward(
        self, image_list: ImageList, feature_maps: list[Float[Tensor, "n c _ _"]]
    ) -> list[Float[Tensor, "_ 4"]]:
        precise = [feature_map.new_zeros((), dtype=_precise(feature_map)) for feature_map in feature_maps]
        shaped = [zero.expand(like.shape) for zero, like in zip(precise, feature_maps, strict=True)]
        return super().forward(image_list, shaped)


class FixedStrideAnchors(AnchorGenerator):
    """Anchors of mmdet 2 and 3: exact sizes, centered on the cell index times the stride of the level.

    torchvision's generator rounds the corners of each anchor to whole pixels, and derives the stride from the padded
    image and the map, rounded down: 61 instead of 64 for the coarsest level of an 800-pixel image.

    Args:
        sizes: sides of the square anchors of each level, in pixels.
        aspect_ratios: height over width, of each level.
        strides: stride of each level in pixels.
    """

    def __init__(
        self,
        sizes: tuple[tuple[float, ...], ...],
        aspect_ratios: tuple[tuple[float, ...], ...],
        strides: tuple[int, ...],
    ) -> None:
        super().__init__(sizes, aspect_ratios)
        self.strides = strides

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = _CPU,
    ) -> Float[Tensor, "anchors 4"]:
        """Generate the anchors of one level around (0, 0).

        Args:
            scales: sides of the square anchors in pixels.
            aspect_ratios: height over width.
            dtype: of the result.
            device: of the result.

        Returns:
            Left, top, right, bottom of ratios x scales anchors, ratio by ratio.
        """
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        roots = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        widths = (sides[None, :] / roots[:, None]).flatten()
        heights = (sides[None, :] * roots[:, None]).flatten()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2

    def forward(
        self, image_list: ImageList, feature_maps: list[Float[Tensor, "n c _ _"]]
    ) -> list[Float[Tensor, "_ 4"]]:
        first = feature_maps[0]
        self.set_cell_anchors(_precise(first), first.device)
        steps = [[torch.tensor(stride, device=first.device)] * 2 for stride in self.strides]
        levels = self.grid_anchors([list(feature_map.shape[-2:]) for feature_map in feature_maps], steps)
        return [torch.cat(levels)] * len(image_list.image_sizes)


class PixelAnchors(FixedStrideAnchors):
    """Anchors of mmdet 1: in whole pixels from the first to the last, centered on the pixels of their cell.

    Args:
        sizes: sides of the square anchors of each level, in pixels.
        aspect_ratios: height over width, of each level.
        strides: stride of each level in pixels.
    """

    def __init__(
        self,
        sizes: tuple[tuple[float, ...], ...],
        aspect_ratios: tuple[tuple[float, ...], ...],
        strides: tuple[int, ...],
    ) -> None:
        super().__init__(sizes, aspect_ratios, strides)
        inward = self.cell_anchors[0].new_tensor(
            [0.5, 0.5, -0.5, -0.5]
        )  # from edges to the centers of the first and the last pixel
        self.cell_anchors = [
            ((stride - 1) / 2 + inward + cell).round() for stride, cell in zip(strides, self.cell_anchors, strict=True)
        ]


def _precise(feature_map: Float[Tensor, "n c h w"]) -> torch.dtype:
    return torch.promote_types(feature_map.dtype, torch.float32)
