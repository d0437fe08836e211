"""Matching of anchors and RoIs with objects, in bounded memory.

The matrix of IoUs grows with boxes times objects: an image with a finest map of 600 x 400 cells and 250 objects has 240
million pairs and needs several gigabytes. Here a chunk of boxes at a time is compared with all objects.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

_MOST_DENSE_PAIRS, _CHUNK_PAIRS = 2**22, 2**20  # pairs of object and box compared at once; beyond, per chunk

IoU = Callable[[Tensor, Tensor], Tensor]
"""Boxes (N, 4) and others (M, 4) -> intersection over union of all pairs (N, M)."""


class BoxPairs(NamedTuple):
    """All pairs of objects and boxes, whose IoU is not computed yet.

    Attributes:
        objects: ground-truth boxes, as left, top, right, bottom in pixels.
        boxes: anchors or RoIs, likewise.
    """

    objects: Float[Tensor, "m 4"]
    boxes: Float[Tensor, "n 4"]


class AnchorMatcher:
    """torchvision's `Matcher` with low-quality matches and the same result, which takes boxes instead of an IoU matrix.

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
        chunks = _split(anchors, len(objects))
        overlaps, nearest, best = _compare(objects, chunks, box_iou)
        best_object = _last_best(objects, chunks, best, box_iou, least=0.0)
        return torch.where(best_object >= 0, nearest, _by_threshold(overlaps, nearest, self.high, self.low))


class MaxIoUMatcher:
    """Matcher of mmdet (`MaxIoUAssigner`): the boxes with the highest IoU of an object are matched with this object.

    torchvision matches such a box with the object that it overlaps most, and at any IoU.

    Args:
        high: IoU from which on a box is matched with the object that it overlaps most, in [0, 1].
        low: IoU below which a box is background, in [0, 1]; boxes in between are ignored.
        min_best: smallest highest IoU of an object whose best boxes, with ties, are matched with it, in [0, 1]; above
            1 none are. A box that is the best of several objects is matched with the last of them.
        iou: IoU of all pairs.
    """

    BELOW_LOW_THRESHOLD = Matcher.BELOW_LOW_THRESHOLD
    BETWEEN_THRESHOLDS = Matcher.BETWEEN_THRESHOLDS

    def __init__(self, high: float, low: float, *, min_best: float, iou: IoU) -> None:
        self.high, self.low, self.min_best, self.iou = high, low, min_best, iou

    def __call__(self, pairs: BoxPairs) -> Int[Tensor, " n"]:
        """Match each box with an object.

        Args:
            pairs: objects and boxes; there may be none of either.

        Returns:
            Index of the object of each box; -1 for background and -2 for boxes that are ignored.
        """
        objects, boxes = pairs
        if not len(objects) or not len(boxes):
            return torch.full((len(boxes),), self.BELOW_LOW_THRESHOLD, device=boxes.device)
        chunks = _split(boxes, len(objects))
        overlaps, nearest, best = _compare(objects, chunks, self.iou)
        best_object = _last_best(objects, chunks, best, self.iou, least=self.min_best)
        return torch.where(best_object >= 0, best_object, _by_threshold(overlaps, nearest, self.high, self.low))


def _split(boxes: Float[Tensor, "n 4"], objects: int) -> tuple[Tensor, ...]:
    return boxes.split(max(_CHUNK_PAIRS // objects, 1))


def _by_threshold(
    overlaps: Float[Tensor, " n"], nearest: Int[Tensor, " n"], high: float, low: float
) -> Int[Tensor, " n"]:
    matches = nearest.clone()
    matches[overlaps < low] = Matcher.BELOW_LOW_THRESHOLD
    matches[(overlaps >= low) & (overlaps < high)] = Matcher.BETWEEN_THRESHOLDS
    return matches


def _compare(
    objects: Float[Tensor, "m 4"], chunks: tuple[Tensor, ...], iou: IoU
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, "chunks m"]]:
    """Largest IoU and its object for each box; largest IoU of each object for each chunk of boxes."""
    count = sum(len(chunk) for chunk in chunks)
    # Results are written in place: small tensors kept between large ones that are freed would fragment memory.
    overlaps = objects.new_empty(count)
    nearest = torch.empty(count, dtype=torch.int64, device=objects.device)
    best = objects.new_empty(len(chunks), len(objects))
    start = 0
    for number, chunk in enumerate(chunks):
        rows = slice(start, start + len(chunk))
        matrix = iou(objects, chunk)
        overlaps[rows], nearest[rows] = matrix.max(dim=0)
        best[number] = matrix.amax(dim=1)
        start += len(chunk)
    return overlaps, nearest, best


def _last_best(
    objects: Float[Tensor, "m 4"], chunks: tuple[Tensor, ...], best: Float[Tensor, "chunks m"], iou: IoU, least: float
) -> Int[Tensor, " n"]:
    """The last object of which a box has the highest IoU, if that is at least `least`; else -1."""
    highest = best.amax(dim=0)
    found = torch.full((sum(len(chunk) for chunk in chunks),), -1, device=objects.device)
    start = 0
    for chunk, values in zip(chunks, best, strict=True):
        rows = torch.where((values == highest) & (highest >= least))[0]
        if len(rows):
            is_best: Bool[Tensor, "r c"] = iou(objects[rows], chunk) == highest[rows, None]
            found[start : start + len(chunk)] = torch.where(is_best, rows[:, None], -1).amax(dim=0)
        start += len(chunk)
    return found
