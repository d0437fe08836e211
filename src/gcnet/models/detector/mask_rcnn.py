"""Mask R-CNN (arXiv 1703.06870) and its cascade, with a feature pyramid (arXiv 1612.03144) on a residual network."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from gcnet.errors import UserError, unknown
from gcnet.models.detector.cascade import CascadeRoIHeads
from gcnet.models.detector.norms import set_norms
from gcnet.models.detector.numerics import LEVELS, NUMERICS, Numerics

WIDTH = 256  # channels of every map of the pyramid
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels, as for the hosts' weights
_HEADS = ("2fc", "4conv1fc")
_ANCHOR_SIDES = (32.0, 64.0, 128.0, 256.0, 512.0)
_BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def build_mask_rcnn(
    host: nn.Module,
    *,
    num_classes: int = 80,
    numerics: str = "mmdet",
    norm: str = "fixed",
    norm_eps: float = 1e-5,
    heads: str = "2fc",
    cascade: bool = False,
    image_size: tuple[int, int] = (800, 1333),
    anchor_sides: tuple[float, ...] = _ANCHOR_SIDES,
) -> GeneralizedRCNN:
    """Put a detector on a classification network, whose layers it takes over.

    In evaluation mode it maps a list of images (3, H, W), floating point in [0, 1], to a list of dicts: `boxes` (n, 4)
    left, top, right, bottom in pixels of the image; `labels` (n,) int64 from 1; `scores` (n,) in [0, 1], falling;
    `masks` (n, 1, H, W) probabilities. In training mode it also takes a list of targets, dicts of `boxes` (n, 4),
    `labels` (n,) and `masks` (n, H, W) uint8, and gives the losses by name. Its keys are torchvision's.

    Args:
        host: a ResNet or ResNeXt of torchvision, without or with blocks.
        num_classes: classes of objects, without the background.
        numerics: a name of `NUMERICS`: whose arithmetic anchors, boxes, pooling, resizing and pasting follow.
        norm: of the backbone: "fixed", "frozen" or "batch".
        norm_eps: epsilon of these norms.
        heads: of the boxes: "2fc"; or "4conv1fc", with batch norms in all heads and the pyramid, as the papers have it.
        cascade: three stages of heads (Cascade Mask R-CNN), each refining the boxes of the one before.
        image_size: short and long side in pixels that images are resized to.
        anchor_sides: sides in pixels of the square anchors of the five levels.

    Raises:
        UserError: an unknown name, or a network that is no such ResNet.
    """
    if num_classes < 1:
        raise UserError(f"num_classes counts the classes of objects, at least 1; found {num_classes}")
    if numerics not in NUMERICS:
        raise unknown("numerics", numerics, NUMERICS)
    if heads not in _HEADS:
        raise unknown("heads", heads, _HEADS)
    if len(anchor_sides) != len(_ANCHOR_SIDES):
        raise UserError(f"anchor_sides are one for each of {len(_ANCHOR_SIDES)} levels, found {len(anchor_sides)}")
    set_norms(host, norm, eps=norm_eps)
    parts, normalised = NUMERICS[numerics], heads == "4conv1fc"
    build_heads = _build_cascade if cascade else _build_heads
    return GeneralizedRCNN(
        _build_backbone(host, normalised=normalised),
        _build_proposals(parts, anchor_sides),
        build_heads(parts, num_classes + 1, normalised=normalised),
        parts.transform(*image_size, list(_MEAN), list(_STD)),
    )


def _build_backbone(host: nn.Module, *, normalised: bool) -> nn.Module:
    stages: Mapping[str, nn.Module] = {
        f"layer{number}": getattr(host, f"layer{number}") for number in range(1, 5) if hasattr(host, f"layer{number}")
    }
    if len(stages) != len(LEVELS):
        raise UserError(f"a detector stands on a network with layer1 to layer4, found {type(host).__name__}")
    channels = [_out_channels(stage) for stage in stages.values()]
    names = dict(zip(stages, LEVELS, strict=True))
    return BackboneWithFPN(host, names, channels, WIDTH, norm_layer=nn.BatchNorm2d if normalised else None)


def _out_channels(stage: nn.Module) -> int:
    last: Any = list(stage.children())[-1]
    return (last.conv3 if hasattr(last, "conv3") else last.conv2).out_channels


def _build_proposals(parts: Numerics, anchor_sides: tuple[float, ...]) -> RegionProposalNetwork:
    anchors = parts.anchors(anchor_sides)
    proposals = RegionProposalNetwork(
        anchors,
        RPNHead(WIDTH, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2000, "testing": 1000},
        post_nms_top_n={"training": 2000, "testing": 1000},
        nms_thresh=0.7,
    )
    proposals.box_coder = parts.box_coder((1.0, 1.0, 1.0, 1.0))
    proposals.min_size = parts.smallest_proposal
    return proposals


def _build_cascade(parts: Numerics, classes: int, *, normalised: bool) -> CascadeRoIHeads:
    """Three stages at overlaps of 0.5, 0.6 and 0.7, their deltas scaled by ever smaller deviations."""
    stages = []
    for overlap, (place, size) in zip((0.5, 0.6, 0.7), ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067)), strict=True):
        weights = (1 / place, 1 / place, 1 / size, 1 / size)
        stage = _build_heads(parts, classes, normalised=normalised, overlap=overlap, weights=weights)
        stage.box_predictor.bbox_pred = nn.Linear(1024, 4)
        stages.append(stage)
    return CascadeRoIHeads(stages, (1.0, 0.5, 0.25))


def _build_heads(
    parts: Numerics,
    classes: int,
    *,
    normalised: bool,
    overlap: float = 0.5,
    weights: tuple[float, float, float, float] = _BOX_WEIGHTS,
) -> RoIHeads:
    box_head = (
        FastRCNNConvFCHead((WIDTH, 7, 7), [WIDTH] * 4, [1024], norm_layer=nn.BatchNorm2d)
        if normalised
        else TwoMLPHead(WIDTH * 7 * 7, 1024)
    )
    heads = parts.roi_heads(
        box_roi_pool=parts.roi_pool(7),
        box_head=box_head,
        box_predictor=FastRCNNPredictor(1024, classes),
        fg_iou_thresh=overlap,
        bg_iou_thresh=overlap,
        batch_size_per_image=512,
        positive_fraction=0.25,
        bbox_reg_weights=weights,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
        mask_roi_pool=parts.roi_pool(14),
        mask_head=MaskRCNNHeads(WIDTH, [WIDTH] * 4, 1, norm_layer=nn.BatchNorm2d if normalised else None),
        mask_predictor=MaskRCNNPredictor(WIDTH, WIDTH, classes),
    )
    heads.box_coder = parts.box_coder(weights)
    return heads
