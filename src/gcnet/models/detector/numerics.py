"""The numerics of a detector: one bundle of parts for each implementation whose weights it can run.

Both count classes from 1, with the background in row 0 of every head; another order belongs to the conversion of
weights. The parts that a bundle does not name are the same in both.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from gcnet.models.detector.anchors import FixedStrideAnchors
from gcnet.models.detector.boxes import ClampedBoxCoder, UnfilteredRoIHeads
from gcnet.models.detector.pooling import AlignedRoIPool
from gcnet.models.detector.transform import RoundedTransform

LEVELS = ("0", "1", "2", "3")
"""Names of the pyramid's maps that regions are pooled from; one more, coarser, has anchors only."""
STRIDES = (4, 8, 16, 32, 64)
ASPECT_RATIOS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Numerics:
    """Parts of a detector, each a builder.

    Args:
        anchors: sides of the square anchors, one a level -> anchors of three aspect ratios.
        box_coder: weights of a box's four deltas -> coder.
        roi_pool: side of what is pooled -> pool of regions over `LEVELS`.
        roi_heads: as `torchvision.models.detection.roi_heads.RoIHeads`.
        transform: as `GeneralizedRCNNTransform`: short side, long side, mean, std -> images in, results out.
        smallest_proposal: pixels; proposals with a smaller side are dropped.
    """

    anchors: Callable[[tuple[float, ...]], AnchorGenerator]
    box_coder: Callable[[tuple[float, float, float, float]], BoxCoder]
    roi_pool: Callable[[int], nn.Module]
    roi_heads: type[RoIHeads]
    transform: type[GeneralizedRCNNTransform]
    smallest_proposal: float


def _rounded_anchors(sizes: tuple[float, ...]) -> AnchorGenerator:
    return AnchorGenerator(tuple((size,) for size in sizes), (ASPECT_RATIOS,) * len(sizes))


def _exact_anchors(sizes: tuple[float, ...]) -> AnchorGenerator:
    return FixedStrideAnchors(tuple((size,) for size in sizes), (ASPECT_RATIOS,) * len(sizes), STRIDES)


def _half_pixel_off_pool(output_size: int) -> nn.Module:
    return MultiScaleRoIAlign(list(LEVELS), output_size, sampling_ratio=2)


NUMERICS: Mapping[str, Numerics] = {
    "torchvision": Numerics(
        anchors=_rounded_anchors,
        box_coder=BoxCoder,
        roi_pool=_half_pixel_off_pool,
        roi_heads=RoIHeads,
        transform=GeneralizedRCNNTransform,
        smallest_proposal=1e-3,
    ),
    # mmdet 2 and 3: anchor_generator.py, delta_xywh_bbox_coder.py, roi_align.py, rpn_head.py, bbox_nms.py,
    # fcn_mask_head.py.
    "mmdet": Numerics(
        anchors=_exact_anchors,
        box_coder=ClampedBoxCoder,
        roi_pool=partial(AlignedRoIPool, LEVELS, strides=STRIDES[: len(LEVELS)]),
        roi_heads=UnfilteredRoIHeads,
        transform=RoundedTransform,
        smallest_proposal=sys.float_info.min,  # any side above zero
    ),
}
