"""Faster R-CNN, Mask R-CNN (arXiv 1703.06870) and its cascade, with a feature pyramid (arXiv 1612.03144)."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from gcnet.errors import UserError, unknown
from gcnet.models.detector.backbone import NORMS, build_pyramid, set_norms
from gcnet.models.detector.conventions import CONVENTIONS, Conventions
from gcnet.models.detector.heads import HeadSpec, ProposalHead, build_cascade, build_heads
from gcnet.renamed import OLD_VALUES, new_name, renamed

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as for the backbones' weights


def build_mask_rcnn(
    classifier: nn.Module,
    *,
    num_classes: int = 80,
    cascade: bool = False,
    masks: bool = True,
    conventions: str = "mmdet",
    norm: str = "eval_stats",
    norm_eps: float = 1e-5,
    box_head: str = "2fc",
    image_size: tuple[int, int] = (800, 1333),
    anchor_sizes: tuple[float, ...] | None = None,
    rois_per_image: int = 512,
    detections_per_image: int = 100,
    fpn_channels: int = 256,
    head_width: int = 1024,
    rpn_convs: int = 1,
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
        conventions: a name of `CONVENTIONS`: the implementation to match in outputs and losses.
        norm: batch norms of the backbone: "eval_stats" (running statistics as loaded, affine parameters trained),
            "frozen", "batch", or "sync" (SyncBatchNorm when training on several GPUs).
        norm_eps: epsilon of these norms.
        box_head: "2fc" or "4conv1fc"; the latter with batch norms in all heads and the pyramid, as in the
            papers.
        image_size: min_size and max_size of the resized images in pixels.
        anchor_sizes: sides of the square anchors in pixels, one per level; by default eight times each stride.
        rois_per_image: RoIs sampled per image to train the heads, at most a quarter of them positive.
        detections_per_image: most detections per image.
        fpn_channels: channels of the pyramid's levels and of the convolutions of the heads.
        head_width: features of the linear layers of the box head.
        rpn_convs: 3x3 convolutions in the head of the region proposal network.

    Returns:
        The detector, with fresh weights outside the classifier's layers.

    Raises:
        UserError: an unknown name, a number out of range, or a network without stages.

    Reference:
        Mask R-CNN, arXiv 1703.06870; feature pyramid networks, arXiv 1612.03144.
    """
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, without the background; found {num_classes}")
    check_detector_options({"conventions": conventions, "norm": norm, "norm_eps": norm_eps, "box_head": box_head})
    check_detector_options({"image_size": image_size, "anchor_sizes": anchor_sizes, "rois_per_image": rois_per_image})
    check_detector_options({"detections_per_image": detections_per_image})
    check_detector_options({"fpn_channels": fpn_channels, "head_width": head_width, "rpn_convs": rpn_convs})
    set_norms(classifier, norm, eps=norm_eps)
    parts, batch_norm = CONVENTIONS[conventions], box_head == "4conv1fc"
    backbone, strides = build_pyramid(classifier, channels=fpn_channels, batch_norm=batch_norm)
    spec = HeadSpec(
        num_classes + 1,
        fpn_channels=fpn_channels,
        head_width=head_width,
        rois_per_image=rois_per_image,
        strides=strides[: len(backbone.fpn.layer_blocks)],
        batch_norm=batch_norm,
        masks=masks,
        detections=detections_per_image,
    )
    kind = "cascade_mask_rcnn" if cascade else "mask_rcnn" if masks else "faster_rcnn"
    anchors = _build_anchors(parts, anchor_sizes or tuple(8.0 * stride for stride in strides), strides)
    head = ProposalHead(fpn_channels, anchors.num_anchors_per_location()[0], rpn_convs)
    return GeneralizedRCNN(
        backbone,
        parts.rpn[kind](anchors, head, box_coder=parts.box_coder((1.0, 1.0, 1.0, 1.0))),
        build_cascade(parts, spec) if cascade else build_heads(parts, spec, kind=kind),
        parts.transform(*image_size, list(_MEAN), list(_STD)),
    )


def _build_anchors(parts: Conventions, sizes: tuple[float, ...], strides: tuple[int, ...]) -> AnchorGenerator:
    if len(sizes) != len(strides):
        raise UserError(f"anchor_sizes must have one size for each of {len(strides)} levels, found {len(sizes)}")
    return parts.anchors(sizes, strides)


HEADS = ("2fc", "4conv1fc")
"""Box heads: two linear layers; or four convolutions and a linear layer, with batch norms in all heads."""

_LARGEST_MIN_SIZE = 10_000


def check_detector_options(options: Mapping[str, Any]) -> None:
    """Check options of `build_mask_rcnn`.

    Args:
        options: values by name.

    Raises:
        UserError: an unknown option, or an invalid value.
    """
    for name, value in options.items():
        if name not in _CHECKS:
            new = new_name(name)
            raise renamed(name, new) if new in _CHECKS else unknown("option of a detector", name, _CHECKS)
        _CHECKS[name](name, value)


def _one_of(valid: Iterable[str]) -> Callable[[str, object], None]:
    def check(name: str, value: object) -> None:
        if value not in tuple(valid):
            raise unknown(name, str(value), valid, synonyms=OLD_VALUES)

    return check


def _check_whole(name: str, value: object) -> None:
    if not _is_positive(value, int):
        raise UserError(f"`{name}` must be a whole number, at least 1; found {value}")


def _check_epsilon(name: str, value: object) -> None:
    if value != 0 and not _is_positive(value, int | float):
        raise UserError(f"`{name}` must be a number, at least 0; found {value}")


def _check_size(name: str, value: object) -> None:
    sides = list(value) if isinstance(value, tuple | list) else []
    if len(sides) != 2 or not all(_is_positive(side, int) for side in sides) or sides[0] > sides[1]:
        raise UserError(f"`{name}` must be min_size and max_size in whole pixels, found {value}")
    if sides[0] > _LARGEST_MIN_SIZE:
        raise UserError(f"min_size of {name} must be at most {_LARGEST_MIN_SIZE:,} pixels, found {sides[0]}")


def _check_sides(name: str, value: object) -> None:
    sides = list(value) if isinstance(value, tuple | list) else []
    if value is not None and not (sides and all(_is_positive(side, int | float) for side in sides)):
        raise UserError(f"`{name}` must be sizes in pixels above 0, one per level; found {value}")


def _is_positive(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and 0 < value < math.inf


_CHECKS: Mapping[str, Callable[[str, object], None]] = {
    "conventions": _one_of(CONVENTIONS),
    "norm": _one_of(NORMS),
    "norm_eps": _check_epsilon,
    "box_head": _one_of(HEADS),
    "image_size": _check_size,
    "anchor_sizes": _check_sides,
    "rois_per_image": _check_whole,
    "detections_per_image": _check_whole,
    "fpn_channels": _check_whole,
    "head_width": _check_whole,
    "rpn_convs": _check_whole,
}
