"""Conventions of detectors: anchors, box coder, RoIAlign, resizing and mask pasting of each implementation.

All count classes from 1, with the background in row 0 of every head; another order belongs to the conversion of
weights. The parts that a bundle does not name are the same in all.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from gcnet.models.detector.boxes import ClampedBoxCoder, FixedStrideAnchors, RoundedAnchors, UnfilteredRoIHeads
from gcnet.models.detector.mask_loss import MaskSkippingRoIHeads
from gcnet.models.detector.pooling import AlignedRoIPool
from gcnet.models.detector.transform import PackedMasksTransform, RoundedTransform

ASPECT_RATIOS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Numerics:
    """Parts of a detector, each a builder.

    Args:
        anchors: sides of the square anchors and strides, one a level -> anchors of three aspect ratios.
        box_coder: weights of a box's four deltas -> coder.
        roi_pool: side of what is pooled, strides of the maps to pool from -> pool of regions.
        roi_heads: as `torchvision.models.detection.roi_heads.RoIHeads`.
        transform: as `GeneralizedRCNNTransform`: short side, long side, mean, std -> images in, results out.
        smallest_proposal: pixels; proposals with a smaller side are dropped.
    """

    anchors: Callable[[tuple[float, ...], tuple[int, ...]], AnchorGenerator]
    box_coder: Callable[[tuple[float, float, float, float]], BoxCoder]
    roi_pool: Callable[[int, tuple[int, ...]], nn.Module]
    roi_heads: type[RoIHeads]
    transform: type[GeneralizedRCNNTransform]
    smallest_proposal: float


def level_names(count: int) -> tuple[str, ...]:
    """The names of a pyramid's maps, the finest first."""
    return tuple(str(level) for level in range(count))


def _rounded_anchors(sides: tuple[float, ...], strides: tuple[int, ...]) -> AnchorGenerator:
    return RoundedAnchors(tuple((side,) for side in sides), (ASPECT_RATIOS,) * len(strides))


def _exact_anchors(sides: tuple[float, ...], strides: tuple[int, ...]) -> AnchorGenerator:
    return FixedStrideAnchors(tuple((side,) for side in sides), (ASPECT_RATIOS,) * len(strides), strides)


def _half_pixel_off_pool(output_size: int, strides: tuple[int, ...]) -> nn.Module:
    return MultiScaleRoIAlign(list(level_names(len(strides))), output_size, sampling_ratio=2)


def _aligned_pool(output_size: int, strides: tuple[int, ...]) -> nn.Module:
    return AlignedRoIPool(level_names(len(strides)), output_size, strides)


NUMERICS: Mapping[str, Numerics] = {
    "torchvision": Numerics(
        anchors=_rounded_anchors,
        box_coder=BoxCoder,
        roi_pool=_half_pixel_off_pool,
        roi_heads=MaskSkippingRoIHeads,
        transform=PackedMasksTransform,
        smallest_proposal=1e-3,
    ),
    # mmdet 2 and 3: anchor_generator.py, delta_xywh_bbox_coder.py, roi_align.py, rpn_head.py, bbox_nms.py,
    # fcn_mask_head.py.
    "mmdet": Numerics(
        anchors=_exact_anchors,
        box_coder=ClampedBoxCoder,
        roi_pool=_aligned_pool,
        roi_heads=UnfilteredRoIHeads,
        transform=RoundedTransform,
        smallest_proposal=sys.float_info.min,  # any side above zero
    ),
}
