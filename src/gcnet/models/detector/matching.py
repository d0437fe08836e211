"""Anchor matching with a bounded number of overlaps in memory."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

_WHOLE, _PART = 2**22, 2**20
"""Pairs of object and anchor compared at once, and at a time where there are more of them."""


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
        if len(objects) * len(anchors) <= _WHOLE:
            return self._dense(box_iou(objects, anchors))
        parts = anchors.split(max(_PART // len(objects), 1))
        overlaps, nearest, best = _compare(objects, parts)
        matches = nearest.clone()
        matches[overlaps < self.low] = self.BELOW_LOW_THRESHOLD
        matches[(overlaps >= self.low) & (overlaps < self.high)] = self.BETWEEN_THRESHOLDS
        return torch.where(_is_best(objects, parts, best), nearest, matches)


def _compare(
    objects: Float[Tensor, "m 4"], parts: tuple[Tensor, ...]
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, "parts m"]]:
    """Of each anchor: its largest overlap, and the object it is with; of each part and object: the largest overlap."""
    count = sum(len(part) for part in parts)
    # Results are written in place: small tensors kept between large ones that are freed would fragment memory.
    overlaps = objects.new_empty(count)
    nearest = torch.empty(count, dtype=torch.int64, device=objects.device)
    best = objects.new_empty(len(parts), len(objects))
    start = 0
    for number, part in enumerate(parts):
        rows = slice(start, start + len(part))
        matrix = box_iou(objects, part)
        overlaps[rows], nearest[rows] = matrix.max(dim=0)
        best[number] = matrix.amax(dim=1)
        start += len(part)
    return overlaps, nearest, best


def _is_best(
    objects: Float[Tensor, "m 4"], parts: tuple[Tensor, ...], best: Float[Tensor, "parts m"]
) -> Bool[Tensor, " n"]:
    """Whether some object overlaps no anchor more than this one; ties count."""
    highest = best.amax(dim=0)
    found = torch.empty(sum(len(part) for part in parts), dtype=torch.bool, device=objects.device)
    start = 0
    for part, values in zip(parts, best, strict=True):
        rows = torch.where(values == highest)[0]
        found[start : start + len(part)] = (box_iou(objects[rows], part) == highest[rows, None]).any(dim=0)
        start += len(part)
    return found
