"""Conventions of detectors: the parts, samples and losses of each implementation.

In all of them class labels start at 1 and row 0 of every head is the background; another order is a matter of weight
conversion. Parts that a bundle does not name are the same in all.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from gcnet.models.detector.anchors import FixedStrideAnchors, PixelAnchors, RoundedAnchors
from gcnet.models.detector.box_coder import ClampedBoxCoder, PixelBoxCoder
from gcnet.models.detector.coordinates import EDGES, PIXELS
from gcnet.models.detector.losses import (
    aligned_mask_targets,
    cropped_mask_targets,
    l1,
    projected_mask_targets,
    smooth_l1,
)
from gcnet.models.detector.roi_heads import MaskSkippingRoIHeads, MMDet1RoIHeads, MMDetRoIHeads
from gcnet.models.detector.roi_pool import AlignedRoIPool, OffCenterRoIPool, PixelRoIPool
from gcnet.models.detector.rpn import MatchingRPN, MMDetRPN, inside_image, inside_own_padding
from gcnet.models.detector.transform import PackedMasksTransform, PixelTransform, RoundedTransform

ASPECT_RATIOS = (0.5, 1.0, 2.0)
"""Height over width of anchors."""


@dataclass(frozen=True)
class Conventions:
    """Parts of a detector in which implementations differ, each a builder.

    Attributes:
        anchors: sizes of the square anchors and strides, one per level -> generator of anchors in `ASPECT_RATIOS`.
        box_coder: weights of the four box deltas -> box coder.
        rpn: "faster_rcnn", "mask_rcnn" and "cascade_mask_rcnn" -> builder of the region proposal network from anchors,
            head and, by keyword, `box_coder`.
        roi_pool: side of the pooled map, strides of the levels -> RoI pooling.
        roi_heads: likewise -> builder of one stage of `torchvision.models.detection.roi_heads.RoIHeads` from
            `box_coder` and torchvision's arguments, by keyword.
        transform: class with the interface of `GeneralizedRCNNTransform`: min_size, max_size, mean, std -> resizing of
            images and pasting of results.
    """

    anchors: Callable[[tuple[float, ...], tuple[int, ...]], AnchorGenerator]
    box_coder: Callable[[tuple[float, float, float, float]], BoxCoder]
    rpn: Mapping[str, Callable[..., RegionProposalNetwork]]
    roi_pool: Callable[[int, tuple[int, ...]], nn.Module]
    roi_heads: Mapping[str, Callable[..., RoIHeads]]
    transform: type[GeneralizedRCNNTransform]


def level_names(count: int) -> tuple[str, ...]:
    """Return the names of `count` pyramid levels, the finest first."""
    return tuple(str(level) for level in range(count))


def _rounded_anchors(sizes: tuple[float, ...], strides: tuple[int, ...]) -> AnchorGenerator:
    return RoundedAnchors(tuple((size,) for size in sizes), (ASPECT_RATIOS,) * len(strides))


def _exact_anchors(sizes: tuple[float, ...], strides: tuple[int, ...]) -> AnchorGenerator:
    return FixedStrideAnchors(tuple((size,) for size in sizes), (ASPECT_RATIOS,) * len(strides), strides)


def _pixel_anchors(sizes: tuple[float, ...], strides: tuple[int, ...]) -> AnchorGenerator:
    return PixelAnchors(tuple((size,) for size in sizes), (ASPECT_RATIOS,) * len(strides), strides)


def _off_center_pool(output_size: int, strides: tuple[int, ...]) -> nn.Module:
    return OffCenterRoIPool(level_names(len(strides)), output_size, strides)


def _aligned_pool(output_size: int, strides: tuple[int, ...]) -> nn.Module:
    return AlignedRoIPool(level_names(len(strides)), output_size, strides)


def _pixel_pool(output_size: int, strides: tuple[int, ...]) -> nn.Module:
    return PixelRoIPool(level_names(len(strides)), output_size, strides)


_MMDET_RPN = partial(MMDetRPN, coordinates=EDGES, min_best=0.3)
_MMDET_HEADS = partial(MMDetRoIHeads, coordinates=EDGES, mask_targets=aligned_mask_targets)
_MMDET1_RPN = partial(
    MMDetRPN, coordinates=PIXELS, min_best=0.3, candidates=inside_image, proposals=2000, box_loss=smooth_l1(1 / 9)
)
_MMDET1_HEADS = partial(
    MMDet1RoIHeads, coordinates=PIXELS, mask_targets=cropped_mask_targets, min_best=1.0, box_loss=smooth_l1(1.0)
)
_TORCHVISION_HEADS = partial(MaskSkippingRoIHeads, mask_targets=projected_mask_targets)

CONVENTIONS: Mapping[str, Conventions] = {
    "torchvision": Conventions(
        anchors=_rounded_anchors,
        box_coder=BoxCoder,
        rpn={"faster_rcnn": MatchingRPN, "mask_rcnn": MatchingRPN, "cascade_mask_rcnn": MatchingRPN},
        roi_pool=_off_center_pool,
        roi_heads={
            "faster_rcnn": partial(_TORCHVISION_HEADS, box_loss=smooth_l1(1 / 9)),
            "mask_rcnn": partial(_TORCHVISION_HEADS, box_loss=smooth_l1(1 / 9)),
            "cascade_mask_rcnn": partial(_TORCHVISION_HEADS, box_loss=smooth_l1(1.0)),
        },
        transform=PackedMasksTransform,
    ),
    # mmdet 2 and 3: configs/_base_/models, anchor_generator.py, delta_xywh_bbox_coder.py, max_iou_assigner.py,
    # anchor_head.py, rpn_head.py, roi_align.py, bbox_head.py, bbox_nms.py, fcn_mask_head.py, mask/structures.py.
    "mmdet": Conventions(
        anchors=_exact_anchors,
        box_coder=ClampedBoxCoder,
        rpn={
            "faster_rcnn": partial(_MMDET_RPN, candidates=inside_own_padding, proposals=1000, box_loss=l1),
            "mask_rcnn": partial(_MMDET_RPN, candidates=inside_own_padding, proposals=1000, box_loss=l1),
            "cascade_mask_rcnn": partial(
                _MMDET_RPN, candidates=inside_image, proposals=2000, box_loss=smooth_l1(1 / 9)
            ),
        },
        roi_pool=_aligned_pool,
        roi_heads={
            "faster_rcnn": partial(_MMDET_HEADS, min_best=math.inf, box_loss=l1),
            "mask_rcnn": partial(_MMDET_HEADS, min_best=1.0, box_loss=l1),
            "cascade_mask_rcnn": partial(_MMDET_HEADS, min_best=math.inf, box_loss=smooth_l1(1.0)),
        },
        transform=RoundedTransform,
    ),
    # mmdet 1 and the authors' repository (xvjiarui/GCNet, configs/gcnet): core/anchor, core/bbox, core/mask,
    # core/post_processing/bbox_nms.py, ops/roi_align, anchor_heads/rpn_head.py, mask_heads/fcn_mask_head.py.
    "mmdet1": Conventions(
        anchors=_pixel_anchors,
        box_coder=PixelBoxCoder,
        rpn={"faster_rcnn": _MMDET1_RPN, "mask_rcnn": _MMDET1_RPN, "cascade_mask_rcnn": _MMDET1_RPN},
        roi_pool=_pixel_pool,
        roi_heads={"faster_rcnn": _MMDET1_HEADS, "mask_rcnn": _MMDET1_HEADS, "cascade_mask_rcnn": _MMDET1_HEADS},
        transform=PixelTransform,
    ),
}
