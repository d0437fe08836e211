"""Anchors: torchvision's, and those at fixed strides with sides that are not rounded; float32 at least."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

_CPU = torch.device("cpu")


class RoundedAnchors(AnchorGenerator):
    """torchvision's, which are float32 at least: in bfloat16 a corner at 800 pixels would be off by up to two."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        precise = [feature_map.new_zeros((), dtype=_precise(feature_map)) for feature_map in feature_maps]
        shaped = [zero.expand(like.shape) for zero, like in zip(precise, feature_maps, strict=True)]
        return super().forward(image_list, shaped)


class FixedStrideAnchors(AnchorGenerator):
    """Anchors as mmdet 2 and 3 have them: exact sides, centred on cell index times the level's stride.

    torchvision's generator rounds the corners of each anchor to whole pixels, and takes for a stride the padded image
    over the map, rounded down: 61 instead of 64 for the coarsest level of an image of 800 pixels.

    Args:
        sizes: of each level: sides in pixels of its square anchors.
        aspect_ratios: of each level: height over width.
        strides: of each level: pixels from one cell to the next.
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
    ) -> Tensor:
        """One level's anchors around (0, 0): (ratios x scales, 4) corners, ratio by ratio."""
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        roots = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        widths = (sides[None, :] / roots[:, None]).flatten()
        heights = (sides[None, :] * roots[:, None]).flatten()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        first = feature_maps[0]
        self.set_cell_anchors(_precise(first), first.device)
        steps = [[torch.tensor(stride, device=first.device)] * 2 for stride in self.strides]
        levels = self.grid_anchors([list(feature_map.shape[-2:]) for feature_map in feature_maps], steps)
        return [torch.cat(levels)] * len(image_list.image_sizes)


def _precise(feature_map: Tensor) -> torch.dtype:
    return torch.promote_types(feature_map.dtype, torch.float32)
