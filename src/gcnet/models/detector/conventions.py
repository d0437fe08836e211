"""Conventions of detectors: anchors, box coder, RoIAlign, resizing and mask pasting of each implementation.

In all of them class labels start at 1 and row 0 of every head is the background; another order is a matter of weight
conversion. Parts that a bundle does not name are the same in all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from gcnet.models.detector.anchors import FixedStrideAnchors, RoundedAnchors
from gcnet.models.detector.coordinates import EDGES
from gcnet.models.detector.roi_heads import AlignedRoIPool, ClampedBoxCoder, MaskSkippingRoIHeads, UnfilteredRoIHeads
from gcnet.models.detector.rpn import MatchingRPN, MMDetRPN
from gcnet.models.detector.transform import PackedMasksTransform, RoundedTransform

ASPECT_RATIOS = (0.5, 1.0, 2.0)
"""Height over width of anchors."""


@dataclass(frozen=True)
class Conventions:
    """Parts of a detector in which implementations differ, each a builder.

    Attributes:
        anchors: sizes of the square anchors and strides, one per level -> generator of anchors in `ASPECT_RATIOS`.
        box_coder: weights of the four box deltas -> box coder.
        rpn: anchors, head and, by keyword, `box_coder` -> region proposal network.
        roi_pool: side of the pooled map, strides of the levels -> RoI pooling.
        roi_heads: class with the interface of `torchvision.models.detection.roi_heads.RoIHeads`.
        transform: class with the interface of `GeneralizedRCNNTransform`: min_size, max_size, mean, std -> resizing of
            images and pasting of results.
    """

    anchors: Callable[[tuple[float, ...], tuple[int, ...]], AnchorGenerator]
    box_coder: Callable[[tuple[float, float, float, float]], BoxCoder]
    rpn: Callable[..., RegionProposalNetwork]
    roi_pool: Callable[[int, tuple[int, ...]], nn.Module]
    roi_heads: type[RoIHeads]
    transform: type[GeneralizedRCNNTransform]


def level_names(count: int) -> tuple[str, ...]:
    """Return the names of `count` pyramid levels, the finest first."""
    return tuple(str(level) for level in range(count))


def _rounded_anchors(sizes: tuple[float, ...], strides: tuple[int, ...]) -> AnchorGenerator:
    return RoundedAnchors(tuple((size,) for size in sizes), (ASPECT_RATIOS,) * len(strides))


def _exact_anchors(sizes: tuple[float, ...], strides: tuple[int, ...]) -> AnchorGenerator:
    return FixedStrideAnchors(tuple((size,) for size in sizes), (ASPECT_RATIOS,) * len(strides), strides)


def _half_pixel_off_pool(output_size: int, strides: tuple[int, ...]) -> nn.Module:
    return MultiScaleRoIAlign(list(level_names(len(strides))), output_size, sampling_ratio=2)


def _aligned_pool(output_size: int, strides: tuple[int, ...]) -> nn.Module:
    return AlignedRoIPool(level_names(len(strides)), output_size, strides)


CONVENTIONS: Mapping[str, Conventions] = {
    "torchvision": Conventions(
        anchors=_rounded_anchors,
        box_coder=BoxCoder,
        rpn=MatchingRPN,
        roi_pool=_half_pixel_off_pool,
        roi_heads=MaskSkippingRoIHeads,
        transform=PackedMasksTransform,
    ),
    # mmdet 2 and 3: anchor_generator.py, delta_xywh_bbox_coder.py, roi_align.py, rpn_head.py, bbox_nms.py,
    # fcn_mask_head.py.
    "mmdet": Conventions(
        anchors=_exact_anchors,
        box_coder=ClampedBoxCoder,
        rpn=partial(MMDetRPN, coordinates=EDGES),
        roi_pool=_aligned_pool,
        roi_heads=UnfilteredRoIHeads,
        transform=RoundedTransform,
    ),
}
