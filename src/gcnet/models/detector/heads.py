"""Heads of a detector: the parts put together, and last layers that compute in float32 at least."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RPNHead

from gcnet.models.detector.cascade import CascadeRoIHeads
from gcnet.models.detector.conventions import Numerics


class ProposalHead(RPNHead):
    """torchvision's, of the region proposal network."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [_precise(level) for level in logits], [_precise(level) for level in deltas]


class BoxPredictor(FastRCNNPredictor):
    """torchvision's, of classes and boxes."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = super().forward(x)
        return _precise(logits), _precise(deltas)


class MaskPredictor(MaskRCNNPredictor):
    """torchvision's, of masks."""

    def forward(self, input: Tensor) -> Tensor:
        return _precise(super().forward(input))


def _precise(found: Tensor) -> Tensor:
    return found.to(torch.promote_types(found.dtype, torch.float32))


_BOX_SIDE, _MASK_SIDE = 7, 14  # cells of what is pooled
_BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True)
class HeadPlan:
    """What all stages of heads have in common.

    Args:
        classes: with the background.
        width: channels of the pyramid's maps and of the heads' convolutions.
        hidden: width of the linear layers of the box head.
        regions: of an image, sampled in training.
        strides: of the maps that regions are pooled from.
        normalised: four convolutions and one linear layer for the boxes, and batch norms; else two linear layers.
        masks: whether there is a mask head.
        detections: of an image, given at most.
    """

    classes: int
    width: int
    hidden: int
    regions: int
    strides: tuple[int, ...]
    normalised: bool
    masks: bool = True
    detections: int = 100


def build_cascade(parts: Numerics, plan: HeadPlan) -> CascadeRoIHeads:
    """Three stages at overlaps of 0.5, 0.6 and 0.7, their deltas scaled by ever smaller deviations."""
    stages = []
    for overlap, (place, size) in zip((0.5, 0.6, 0.7), ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067)), strict=True):
        weights = (1 / place, 1 / place, 1 / size, 1 / size)
        stage = build_heads(parts, plan, overlap=overlap, weights=weights)
        stage.box_predictor.bbox_pred = nn.Linear(plan.hidden, 4)
        stages.append(stage)
    return CascadeRoIHeads(stages, (1.0, 0.5, 0.25))


def build_heads(
    parts: Numerics,
    plan: HeadPlan,
    *,
    overlap: float = 0.5,
    weights: tuple[float, float, float, float] = _BOX_WEIGHTS,
) -> RoIHeads:
    """One stage: regions with this overlap are objects, and these are the weights of a box's deltas."""
    box_head = _build_box_head(plan)
    heads = parts.roi_heads(
        box_roi_pool=parts.roi_pool(_BOX_SIDE, plan.strides),
        box_head=box_head,
        box_predictor=BoxPredictor(plan.hidden, plan.classes),
        fg_iou_thresh=overlap,
        bg_iou_thresh=overlap,
        batch_size_per_image=plan.regions,
        positive_fraction=0.25,
        bbox_reg_weights=weights,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=plan.detections,
        **(_build_mask_parts(parts, plan) if plan.masks else {}),
    )
    heads.box_coder = parts.box_coder(weights)
    return heads


def limit_detections(detector: nn.Module, count: int) -> None:
    """Have a detector give at most so many detections of an image."""
    for module in detector.modules():
        if isinstance(module, RoIHeads):
            module.detections_per_img = count


def _build_mask_parts(parts: Numerics, plan: HeadPlan) -> dict[str, nn.Module]:
    width, norm = plan.width, nn.BatchNorm2d if plan.normalised else None
    return {
        "mask_roi_pool": parts.roi_pool(_MASK_SIDE, plan.strides),
        "mask_head": MaskRCNNHeads(width, [width] * 4, 1, norm_layer=norm),
        "mask_predictor": MaskPredictor(width, width, plan.classes),
    }


def _build_box_head(plan: HeadPlan) -> nn.Module:
    if not plan.normalised:
        return TwoMLPHead(plan.width * _BOX_SIDE**2, plan.hidden)
    pooled = (plan.width, _BOX_SIDE, _BOX_SIDE)
    return FastRCNNConvFCHead(pooled, [plan.width] * 4, [plan.hidden], norm_layer=nn.BatchNorm2d)
