"""Anchors of a detector, and their assignment to objects in bounded memory."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

_CPU = torch.device("cpu")
_MOST_DENSE_PAIRS, _CHUNK_PAIRS = 2**22, 2**20  # pairs of object and anchor compared at once; beyond, per chunk


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


def _precise(feature_map: Float[Tensor, "n c h w"]) -> torch.dtype:
    return torch.promote_types(feature_map.dtype, torch.float32)


class BoxPairs(NamedTuple):
    """All pairs of objects and anchors, whose IoU is not computed yet.

    Attributes:
        objects: ground-truth boxes, as left, top, right, bottom in pixels.
        anchors: anchors, likewise.
    """

    objects: Float[Tensor, "m 4"]
    anchors: Float[Tensor, "n 4"]


class AnchorMatcher:
    """torchvision's `Matcher` with low-quality matches and the same result, which takes boxes instead of an IoU matrix.

    The IoU matrix grows with anchors times objects: an image with a finest map of 600 x 400 cells and 250 objects has
    240 million pairs and needs several gigabytes. Here a chunk of anchors at a time is compared with all objects.

    Args:
        high: IoU from which on an anchor is positive, in [0, 1].
        low: IoU below which an anchor is background, in [0, 1]; anchors in between are ignored.
    """

    BELOW_LOW_THRESHOLD = Matcher.BELOW_LOW_THRESHOLD
    BETWEEN_THRESHOLDS = Matcher.BETWEEN_THRESHOLDS

    def __init__(self, high: float, low: float) -> None:
        self.high, self.low = high, low
        self._dense = Matcher(high, low, allow_low_quality_matches=True)

    def __call__(self, pairs: BoxPairs) -> Int[Tensor, " n"]:
        """Match each anchor with an object.

        Args:
            pairs: objects and anchors.

        Returns:
            Index of the object of each anchor, or one of the two negative constants.

        Raises:
            ValueError: there is no object, or no anchor.
        """
        objects, anchors = pairs
        if len(objects) * len(anchors) <= _MOST_DENSE_PAIRS:
            return self._dense(box_iou(objects, anchors))
        chunks = anchors.split(max(_CHUNK_PAIRS // len(objects), 1))
        overlaps, nearest, best = _compare(objects, chunks)
        matches = nearest.clone()
        matches[overlaps < self.low] = self.BELOW_LOW_THRESHOLD
        matches[(overlaps >= self.low) & (overlaps < self.high)] = self.BETWEEN_THRESHOLDS
        return torch.where(_is_best(objects, chunks, best), nearest, matches)


def _compare(
    objects: Float[Tensor, "m 4"], chunks: tuple[Tensor, ...]
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, "chunks m"]]:
    """Largest IoU and its object for each anchor; largest IoU of each object for each chunk of anchors."""
    count = sum(len(chunk) for chunk in chunks)
    # Results are written in place: small tensors kept between large ones that are freed would fragment memory.
    overlaps = objects.new_empty(count)
    nearest = torch.empty(count, dtype=torch.int64, device=objects.device)
    best = objects.new_empty(len(chunks), len(objects))
    start = 0
    for number, chunk in enumerate(chunks):
        rows = slice(start, start + len(chunk))
        matrix = box_iou(objects, chunk)
        overlaps[rows], nearest[rows] = matrix.max(dim=0)
        best[number] = matrix.amax(dim=1)
        start += len(chunk)
    return overlaps, nearest, best


def _is_best(
    objects: Float[Tensor, "m 4"], chunks: tuple[Tensor, ...], best: Float[Tensor, "chunks m"]
) -> Bool[Tensor, " n"]:
    """Whether an anchor has the largest IoU of some object; ties count."""
    highest = best.amax(dim=0)
    is_best = torch.empty(sum(len(chunk) for chunk in chunks), dtype=torch.bool, device=objects.device)
    start = 0
    for chunk, values in zip(chunks, best, strict=True):
        rows = torch.where(values == highest)[0]
        is_best[start : start + len(chunk)] = (box_iou(objects[rows], chunk) == highest[rows, None]).any(dim=0)
        start += len(chunk)
    return is_best
