"""Faster R-CNN, Mask R-CNN (arXiv 1703.06870) and its cascade, with a feature pyramid (arXiv 1612.03144)."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.rpn import RegionProposalNetwork

from gcnet.errors import UserError, unknown
from gcnet.models.detector.anchors import AnchorMatcher, BoxPairs
from gcnet.models.detector.backbone import NORMS, build_pyramid, set_norms
from gcnet.models.detector.conventions import CONVENTIONS, Conventions
from gcnet.models.detector.heads import HeadSpec, ProposalHead, build_cascade, build_heads

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as for the backbones' weights


def build_mask_rcnn(
    classifier: nn.Module,
    *,
    num_classes: int = 80,
    cascade: bool = False,
    masks: bool = True,
    numerics: str = "mmdet",
    norm: str = "fixed",
    norm_eps: float = 1e-5,
    heads: str = "2fc",
    image_size: tuple[int, int] = (800, 1333),
    anchor_sides: tuple[float, ...] | None = None,
    regions: int = 512,
    detections_per_image: int = 100,
    width: int = 256,
    hidden: int = 1024,
) -> GeneralizedRCNN:
    """Build Faster R-CNN, Mask R-CNN or Cascade Mask R-CNN with a feature pyramid on a classifier.

    In evaluation mode the detector maps a list of images (3, H, W), floating point in [0, 1], to a list of dicts:
    `boxes` (D, 4), as left, top, right, bottom in pixels of the image; `labels` (D,) int64 from 1; `scores` (D,) in
    [0, 1], descending; and `masks` (D, 1, H, W), probabilities. In training mode it also takes a list of targets, dicts
    of `boxes` (K, 4), `labels` (K,) and `masks` (K, H, W) uint8, and returns the losses by name. State-dict keys are
    torchvision's.

    Args:
        classifier: a residual network of torchvision or of this package, with or without blocks; the detector takes
            over its layers, and its stages are the levels of the pyramid.
        num_classes: number of object classes, without the background.
        cascade: three stages of heads (Cascade Mask R-CNN, arXiv 1712.00726).
        masks: predict masks (Mask R-CNN); else boxes only (Faster R-CNN, arXiv 1506.01497), and neither outputs nor
            targets have `masks`.
        numerics: a name of `CONVENTIONS`: the implementation to match in anchors, box coder, RoIAlign, resizing and
            mask pasting.
        norm: norms of the backbone: "fixed", "frozen", "batch", or "sync" (batch norms that training on several GPUs
            synchronizes).
        norm_eps: epsilon of these norms.
        heads: box head, "2fc" or "4conv1fc"; the latter with batch norms in all heads and the pyramid, as in the
            papers.
        image_size: min_size and max_size of the resized images in pixels.
        anchor_sides: sides of the square anchors in pixels, one per level; by default eight times each stride.
        regions: RoIs sampled per image to train the heads, at most a quarter of them positive.
        detections_per_image: most detections per image.
        width: channels of the pyramid's levels and of the convolutions of the heads.
        hidden: features of the linear layers of the box head.

    Returns:
        The detector, with fresh weights outside the classifier's layers.

    Raises:
        UserError: an unknown name, a number out of range, or a network without stages.

    Reference:
        Mask R-CNN, arXiv 1703.06870; feature pyramid networks, arXiv 1612.03144.
    """
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, without the background; found {num_classes}")
    check_options({"numerics": numerics, "norm": norm, "norm_eps": norm_eps, "heads": heads, "image_size": image_size})
    check_options({"anchor_sides": anchor_sides, "regions": regions, "detections_per_image": detections_per_image})
    check_options({"width": width, "hidden": hidden})
    set_norms(classifier, norm, eps=norm_eps)
    parts, batch_norm = CONVENTIONS[numerics], heads == "4conv1fc"
    backbone, strides = build_pyramid(classifier, channels=width, batch_norm=batch_norm)
    spec = HeadSpec(
        num_classes + 1,
        fpn_channels=width,
        head_width=hidden,
        rois_per_image=regions,
        strides=strides[: len(backbone.fpn.layer_blocks)],
        batch_norm=batch_norm,
        masks=masks,
        detections=detections_per_image,
    )
    return GeneralizedRCNN(
        backbone,
        _build_rpn(parts, width, anchor_sides or tuple(8.0 * stride for stride in strides), strides),
        build_cascade(parts, spec) if cascade else build_heads(parts, spec),
        parts.transform(*image_size, list(_MEAN), list(_STD)),
    )


def _build_rpn(
    parts: Conventions, channels: int, anchor_sides: tuple[float, ...], strides: tuple[int, ...]
) -> RegionProposalNetwork:
    if len(anchor_sides) != len(strides):
        raise UserError(f"anchor_sides must have one size for each of {len(strides)} levels, found {len(anchor_sides)}")
    anchors = parts.anchors(anchor_sides, strides)
    rpn: Any = RegionProposalNetwork(
        anchors,
        ProposalHead(channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2000, "testing": 1000},
        post_nms_top_n={"training": 2000, "testing": 1000},
        nms_thresh=0.7,
    )
    rpn.box_similarity = BoxPairs
    rpn.proposal_matcher = AnchorMatcher(high=0.7, low=0.3)
    rpn.box_coder = parts.box_coder((1.0, 1.0, 1.0, 1.0))
    rpn.min_size = parts.smallest_proposal
    return rpn


HEADS = ("2fc", "4conv1fc")
"""Box heads: two linear layers; or four convolutions and a linear layer, with batch norms in all heads."""

_LARGEST_MIN_SIZE = 10_000


def check_options(options: Mapping[str, Any]) -> None:
    """Check options of `build_mask_rcnn`.

    Args:
        options: values by name.

    Raises:
        UserError: an unknown option, or an invalid value.
    """
    for name, value in options.items():
        if name not in _CHECKS:
            raise unknown("option of a detector", name, _CHECKS)
        _CHECKS[name](name, value)


def _one_of(valid: Iterable[str]) -> Callable[[str, object], None]:
    def check(name: str, value: object) -> None:
        if value not in tuple(valid):
            raise unknown(name, str(value), valid)

    return check


def _check_whole(name: str, value: object) -> None:
    if not _is_positive(value, int):
        raise UserError(f"{name} must be a whole number, at least 1; found {value}")


def _check_epsilon(name: str, value: object) -> None:
    if value != 0 and not _is_positive(value, int | float):
        raise UserError(f"{name} must be a number, at least 0; found {value}")


def _check_size(name: str, value: object) -> None:
    sides = list(value) if isinstance(value, tuple | list) else []
    if len(sides) != 2 or not all(_is_positive(side, int) for side in sides) or sides[0] > sides[1]:
        raise UserError(f"{name} must be min_size and max_size in whole pixels, found {value}")
    if sides[0] > _LARGEST_MIN_SIZE:
        raise UserError(f"min_size of {name} must be at most {_LARGEST_MIN_SIZE:,} pixels, found {sides[0]}")


def _check_sides(name: str, value: object) -> None:
    sides = list(value) if isinstance(value, tuple | list) else []
    if value is not None and not (sides and all(_is_positive(side, int | float) for side in sides)):
        raise UserError(f"{name} must be sizes in pixels above 0, one per level; found {value}")


def _is_positive(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and 0 < value < math.inf


_CHECKS: Mapping[str, Callable[[str, object], None]] = {
    "numerics": _one_of(CONVENTIONS),
    "norm": _one_of(NORMS),
    "norm_eps": _check_epsilon,
    "heads": _one_of(HEADS),
    "image_size": _check_size,
    "anchor_sides": _check_sides,
    "regions": _check_whole,
    "detections_per_image": _check_whole,
    "width": _check_whole,
    "hidden": _check_whole,
}
