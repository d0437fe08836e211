"""Faster R-CNN, Mask R-CNN (arXiv 1703.06870) and its cascade, with a feature pyramid (arXiv 1612.03144)."""

from typing import Any

from torch import nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.rpn import RegionProposalNetwork

from gcnet.errors import UserError
from gcnet.models.detector.backbone import build_pyramid, set_norms
from gcnet.models.detector.conventions import NUMERICS, Numerics
from gcnet.models.detector.heads import HeadPlan, ProposalHead, build_cascade, build_heads
from gcnet.models.detector.matching import AnchorMatcher, BoxPairs
from gcnet.models.detector.options import check_options

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels, as for the hosts' weights


def build_mask_rcnn(
    host: nn.Module,
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
    """Put a detector on a classification network, whose layers it takes over.

    In evaluation mode it maps a list of images (3, H, W), floating point in [0, 1], to a list of dicts: `boxes` (n, 4)
    left, top, right, bottom in pixels of the image; `labels` (n,) int64 from 1; `scores` (n,) in [0, 1], falling;
    `masks` (n, 1, H, W) probabilities. In training mode it also takes a list of targets, dicts of `boxes` (n, 4),
    `labels` (n,) and `masks` (n, H, W) uint8, and gives the losses by name. Its keys are torchvision's.

    Args:
        host: a residual network of torchvision or of ours, without or with blocks; its stages are the pyramid's levels.
        num_classes: classes of objects, without the background.
        cascade: three stages of heads (Cascade Mask R-CNN), each refining the boxes of the one before.
        masks: whether masks are predicted (Mask R-CNN); else boxes only (Faster R-CNN, arXiv 1506.01497), and neither
            output nor targets have `masks`.
        numerics: a name of `NUMERICS`: whose arithmetic anchors, boxes, pooling, resizing and pasting follow.
        norm: of the backbone: "fixed", "frozen", "batch", or "sync" (batch norms, which training on GPUs synchronises).
        norm_eps: epsilon of these norms.
        heads: of the boxes: "2fc"; or "4conv1fc", with batch norms in all heads and the pyramid, as the papers have it.
        image_size: short and long side in pixels that images are resized to.
        anchor_sides: sides in pixels of the square anchors, one a level; by default eight times each level's stride.
        regions: regions of an image that the heads are trained on, a quarter of them objects.
        detections_per_image: detections of an image, the best ones, that are given at most.
        width: channels of the pyramid's maps and of the heads' convolutions.
        hidden: width of the linear layers of the box head.

    Raises:
        UserError: an unknown name, a number out of range, or a network without stages.
    """
    if num_classes < 1:
        raise UserError(f"num_classes counts the classes of objects, at least 1; found {num_classes}")
    check_options({"numerics": numerics, "norm": norm, "norm_eps": norm_eps, "heads": heads, "image_size": image_size})
    check_options({"anchor_sides": anchor_sides, "regions": regions, "detections_per_image": detections_per_image})
    check_options({"width": width, "hidden": hidden})
    set_norms(host, norm, eps=norm_eps)
    parts, normalised = NUMERICS[numerics], heads == "4conv1fc"
    backbone, strides = build_pyramid(host, width=width, normalised=normalised)
    plan = HeadPlan(
        num_classes + 1,
        width,
        hidden,
        regions,
        strides=strides[: len(backbone.fpn.layer_blocks)],
        normalised=normalised,
        masks=masks,
        detections=detections_per_image,
    )
    return GeneralizedRCNN(
        backbone,
        _build_proposals(parts, width, anchor_sides or tuple(8.0 * stride for stride in strides), strides),
        build_cascade(parts, plan) if cascade else build_heads(parts, plan),
        parts.transform(*image_size, list(_MEAN), list(_STD)),
    )


def _build_proposals(
    parts: Numerics, width: int, anchor_sides: tuple[float, ...], strides: tuple[int, ...]
) -> RegionProposalNetwork:
    if len(anchor_sides) != len(strides):
        raise UserError(f"anchor_sides are one for each of {len(strides)} levels, found {len(anchor_sides)}")
    anchors = parts.anchors(anchor_sides, strides)
    # Any: torchvision's annotations allow its own parts only.
    proposals: Any = RegionProposalNetwork(
        anchors,
        ProposalHead(width, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2000, "testing": 1000},
        post_nms_top_n={"training": 2000, "testing": 1000},
        nms_thresh=0.7,
    )
    proposals.box_similarity = BoxPairs
    proposals.proposal_matcher = AnchorMatcher(high=0.7, low=0.3)
    proposals.box_coder = parts.box_coder((1.0, 1.0, 1.0, 1.0))
    proposals.min_size = parts.smallest_proposal
    return proposals
