"""RoIAlign over the levels of a feature pyramid."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from gcnet.models.detector.coordinates import PIXELS

_CANONICAL_CELLS = 14  # side in cells of the smallest RoI of the second level: 56 pixels at a finest stride of 4


class AlignedRoIPool(nn.Module):
    """RoIAlign of mmdet 2 and 3 over the levels of a feature pyramid: pixel-centered, with an adaptive sampling ratio.

    An RoI of area A is pooled from level `floor(log2(sqrt(A) / (14 s) + 1e-6))` for a finest stride of s, clamped to
    the existing levels (feature pyramid networks, arXiv 1612.03144, eq. 1, where s is 4).

    Args:
        levels: names of the feature maps, the finest first.
        output_size: side of the pooled maps, in cells.
        strides: stride of each level in pixels.
    """

    def __init__(self, levels: tuple[str, ...], output_size: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels
        self.output_size = (output_size, output_size)
        self.strides = strides

    def forward(
        self,
        x: dict[str, Tensor],
        boxes: list[Tensor],
        image_shapes: list[tuple[int, int]],  # noqa: ARG002
    ) -> Float[Tensor, "rois channels side side"]:
        """Pool the RoIs of all images.

        Args:
            x: feature maps (N, C, H, W) by level name.
            boxes: RoIs of each image (R, 4), as left, top, right, bottom in pixels.
            image_shapes: height and width of each image; unused, part of torchvision's interface.

        Returns:
            One pooled map per RoI, image by image.
        """
        regions = self._edges(torch.cat(boxes))
        images = torch.cat([torch.full((len(rows), 1), float(i)) for i, rows in enumerate(boxes)]).to(regions)
        rois = torch.cat([images, regions], dim=1)  # (R, 5)
        level = self._levels(regions)
        chosen = [torch.nonzero(level == number).squeeze(1) for number in range(len(self.levels))]
        parts = [
            self._pool_in_precision(x[name], rois[rows], stride)
            for name, rows, stride in zip(self.levels, chosen, self.strides, strict=True)
        ]
        return torch.cat(parts)[torch.cat(chosen).argsort()]

    def pool_on_every_level(
        self, x: dict[str, Tensor], boxes: Float[Tensor, "r 4"], images: Int[Tensor, " r"]
    ) -> Float[Tensor, "r channels side side"]:
        """Pool RoIs as `forward`, without sizes that depend on the boxes, for exported graphs.

        Every RoI is pooled from every level, as a box without area from all but its own, which takes little time.

        Args:
            x: feature maps (N, C, H, W) by level name.
            boxes: RoIs as left, top, right, bottom in pixels.
            images: index of the image of each RoI.

        Returns:
            One pooled map per RoI.
        """
        regions = self._edges(boxes)
        rois = torch.cat([images.to(regions)[:, None], regions], dim=1)
        level, pooled = self._levels(regions), boxes.new_zeros(())
        for number, (name, stride) in enumerate(zip(self.levels, self.strides, strict=True)):
            own = level == number
            part = self._pool_in_precision(x[name], torch.where(own[:, None], rois, 0.0), stride)
            pooled = torch.where(own[:, None, None, None], part, pooled)
        return pooled

    def _edges(self, boxes: Float[Tensor, "r 4"]) -> Float[Tensor, "r 4"]:
        """The edges of RoIs in pixels."""
        return boxes

    def _levels(self, regions: Float[Tensor, "r 4"]) -> Int[Tensor, " r"]:
        return roi_levels(regions, len(self.levels), self.strides[0])

    def _pool_in_precision(
        self, features: Float[Tensor, "n c h w"], rois: Float[Tensor, "r 5"], stride: int
    ) -> Float[Tensor, "r c side side"]:
        # In the precision of the RoIs: in half precision a corner at 800 pixels would move by whole pixels.
        return self._pool(features.to(rois.dtype), rois, stride).to(features.dtype)

    def _pool(
        self, features: Float[Tensor, "n c h w"], rois: Float[Tensor, "r 5"], stride: int
    ) -> Float[Tensor, "r c side side"]:
        return roi_align(features, rois, self.output_size, 1 / stride, 0, aligned=True)

    def extra_repr(self) -> str:
        return f"{self.levels}, output_size={self.output_size}, strides={self.strides}"


class PixelRoIPool(AlignedRoIPool):
    """RoIAlign of mmdet 1: RoIs end after their last pixel, with an offset of half a pixel and 2 x 2 samples per cell.

    torchvision's with `aligned=False` is the same for RoIs of at least one cell, and enlarges smaller ones.

    Args:
        levels: names of the feature maps, the finest first.
        output_size: side of the pooled maps, in cells.
        strides: stride of each level in pixels.
    """

    def _edges(self, boxes: Float[Tensor, "r 4"]) -> Float[Tensor, "r 4"]:
        return PIXELS.edges(boxes)

    def _pool(
        self, features: Float[Tensor, "n c h w"], rois: Float[Tensor, "r 5"], stride: int
    ) -> Float[Tensor, "r c side side"]:
        # Moved by half a cell, which the pixel-centered RoIAlign subtracts again.
        moved = rois + rois.new_tensor([0.0, *[stride / 2] * 4])
        return roi_align(features, moved, self.output_size, 1 / stride, 2, aligned=True)


class OffCenterRoIPool(AlignedRoIPool):
    """RoIAlign of torchvision's detectors, off by half a pixel, with 2 x 2 samples per cell.

    The same as `torchvision.ops.MultiScaleRoIAlign`, which derives the strides from the first batch it sees.

    Args:
        levels: names of the feature maps, the finest first.
        output_size: side of the pooled maps, in cells.
        strides: stride of each level in pixels.
    """

    def _levels(self, regions: Float[Tensor, "r 4"]) -> Int[Tensor, " r"]:
        finest = math.log2(self.strides[0])
        return LevelMapper(int(finest), int(finest) + len(self.levels) - 1)([regions])

    def _pool(
        self, features: Float[Tensor, "n c h w"], rois: Float[Tensor, "r 5"], stride: int
    ) -> Float[Tensor, "r c side side"]:
        return roi_align(features, rois, self.output_size, 1 / stride, 2, aligned=False)


def roi_levels(rois: Float[Tensor, "n 4"], count: int, finest_stride: int = 4) -> Int[Tensor, " n"]:
    """Assign each RoI to a level of the feature pyramid (arXiv 1612.03144, eq. 1).

    Args:
        rois: left, top, right, bottom in pixels.
        count: number of levels.
        finest_stride: stride of the finest level in pixels.

    Returns:
        Level of each RoI, int64, 0 for the finest.
    """
    sides = rois[:, 2:] - rois[:, :2]
    finest = float(_CANONICAL_CELLS * finest_stride)
    return torch.floor(torch.log2(sides.prod(dim=1).sqrt() / finest + 1e-6)).clamp(0, count - 1).long()
