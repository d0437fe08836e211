"""RoIAlign with pixel-centered samples, and the pyramid level of each RoI."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import roi_align

_CELLS = 14
"""Cells along the side of a region of the finest level, at most twice as many: 56 pixels at a stride of 4."""


class AlignedRoIPool(nn.Module):
    """RoIAlign of mmdet 2 and 3 over the levels of a feature pyramid: half a pixel aligned, samples adaptive.

    A region of area A is pooled from level `floor(log2(sqrt(A) / (14 s) + 1e-6))` for a finest stride of s, within the
    levels there are (feature pyramid networks, arXiv 1612.03144, eq. 1, where s is 4).

    Args:
        levels: names of the feature maps, the finest first.
        output_size: side of what is pooled.
        strides: pixels of the image to a cell of each level.
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
    ) -> Float[Tensor, "regions channels side side"]:
        """Pool each image's boxes (N, 4), corners in pixels; torchvision's pools also take the images' sizes."""
        regions = torch.cat(boxes)
        images = torch.cat([torch.full((len(found), 1), float(i)) for i, found in enumerate(boxes)]).to(regions)
        rois = torch.cat([images, regions], dim=1)  # (N, 5)
        level = region_levels(regions, len(self.levels), self.strides[0])
        chosen = [torch.nonzero(level == number).squeeze(1) for number in range(len(self.levels))]
        parts = [
            self._pool(x[name], rois[rows], stride)
            for name, rows, stride in zip(self.levels, chosen, self.strides, strict=True)
        ]
        return torch.cat(parts)[torch.cat(chosen).argsort()]

    def _pool(self, features: Tensor, rois: Tensor, stride: int) -> Tensor:
        # In the regions' precision: in half precision a corner at 800 pixels would move by whole pixels.
        pooled = roi_align(features.to(rois.dtype), rois, self.output_size, 1 / stride, 0, aligned=True)
        return pooled.to(features.dtype)

    def extra_repr(self) -> str:
        return f"{self.levels}, output_size={self.output_size}, strides={self.strides}"


def region_levels(regions: Float[Tensor, "n 4"], count: int, finest_stride: int = 4) -> Tensor:
    """The level of the pyramid, from 0, that each region (corners in pixels) is pooled from."""
    sides = regions[:, 2:] - regions[:, :2]
    finest = float(_CELLS * finest_stride)
    return torch.floor(torch.log2(sides.prod(dim=1).sqrt() / finest + 1e-6)).clamp(0, count - 1).long()
