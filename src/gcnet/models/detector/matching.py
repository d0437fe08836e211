"""Which object each anchor is matched with in training, with a bounded number of overlaps in memory at a time."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

_PAIRS = 2**22
"""Pairs of object and anchor compared at a time: 16 MiB of overlaps, and about nine times that in between."""


class BoxPairs(NamedTuple):
    """Every object with every anchor, whose overlaps are not computed yet; corners in pixels."""

    objects: Float[Tensor, "m 4"]
    anchors: Float[Tensor, "n 4"]


class AnchorMatcher:
    """torchvision's `Matcher` with low-quality matches, with the same result, which takes boxes instead of overlaps.

    A matrix of overlaps grows with the anchors times the objects: an image with a finest map of 600 x 400 cells and
    250 objects has 240 million, and needs several gigabytes. Here a few anchors at a time are compared with all
    objects.

    Args:
        high: IoU from which on an anchor is matched.
        low: IoU below which an anchor is background; in between it is neither.
    """

    BELOW_LOW_THRESHOLD = Matcher.BELOW_LOW_THRESHOLD
    BETWEEN_THRESHOLDS = Matcher.BETWEEN_THRESHOLDS

    def __init__(self, high: float, low: float) -> None:
        self.high, self.low = high, low
        self._dense = Matcher(high, low, allow_low_quality_matches=True)

    def __call__(self, pairs: BoxPairs) -> Int[Tensor, " n"]:
        """Index of the object of each anchor, or one of the two negative constants.

        Raises:
            ValueError: there is no object, or no anchor.
        """
        objects, anchors = pairs
        if len(objects) * len(anchors) <= _PAIRS:
            return self._dense(box_iou(objects, anchors))
        parts = anchors.split(max(_PAIRS // len(objects), 1))
        overlaps, nearest, best = _compare(objects, parts)
        matches = nearest.clone()
        matches[overlaps < self.low] = self.BELOW_LOW_THRESHOLD
        matches[(overlaps >= self.low) & (overlaps < self.high)] = self.BETWEEN_THRESHOLDS
        return torch.where(_is_best(objects, parts, best), nearest, matches)


def _compare(
    objects: Float[Tensor, "m 4"], parts: tuple[Tensor, ...]
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, "parts m"]]:
    """Of each anchor: its largest overlap, and the object it is with; of each part and object: the largest overlap."""
    overlaps, nearest, best = [], [], []
    for part in parts:
        matrix = box_iou(objects, part)
        best.append(matrix.amax(dim=1))
        for kept, values in zip((overlaps, nearest), matrix.max(dim=0), strict=True):
            kept.append(values)
    return torch.cat(overlaps), torch.cat(nearest), torch.stack(best)


def _is_best(
    objects: Float[Tensor, "m 4"], parts: tuple[Tensor, ...], best: Float[Tensor, "parts m"]
) -> Bool[Tensor, " n"]:
    """Whether some object overlaps no anchor more than this one; ties count."""
    highest = best.amax(dim=0)
    found = []
    for part, values in zip(parts, best, strict=True):
        rows = torch.where(values == highest)[0]
        found.append((box_iou(objects[rows], part) == highest[rows, None]).any(dim=0))
    return torch.cat(found)
