"""Heads of a detector: assembly of RPN, box and mask heads, with outputs in float32."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RPNHead

from gcnet.models.detector.cascade import CascadeRoIHeads
from gcnet.models.detector.conventions import Conventions


class ProposalHead(RPNHead):
    """torchvision's `RPNHead`, with outputs in at least float32."""

    def forward(self, x: list[Float[Tensor, "n c _ _"]]) -> tuple[list[Tensor], list[Tensor]]:
        """Predict objectness and box deltas of every anchor.

        Args:
            x: feature maps, the finest first.

        Returns:
            Objectness logits (N, A, H, W) and deltas (N, 4 A, H, W) of each level, for A anchors per cell.
        """
        logits, deltas = super().forward(x)
        return [_precise(level) for level in logits], [_precise(level) for level in deltas]


class BoxPredictor(FastRCNNPredictor):
    """torchvision's `FastRCNNPredictor` of class logits and box deltas, with outputs in at least float32."""

    def forward(self, x: Float[Tensor, "rois *features"]) -> tuple[Float[Tensor, "rois k"], Float[Tensor, "rois d"]]:
        logits, deltas = super().forward(x)
        return _precise(logits), _precise(deltas)


class MaskPredictor(MaskRCNNPredictor):
    """torchvision's `MaskRCNNPredictor` of mask logits, with outputs in at least float32."""

    def forward(self, input: Float[Tensor, "rois c h w"]) -> Float[Tensor, "rois k h2 w2"]:
        return _precise(super().forward(input))


def _precise(tensor: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


_BOX_SIDE, _MASK_SIDE = 7, 14  # side of the pooled maps, in cells
_BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True)
class HeadSpec:
    """Sizes that all stages of heads share.

    Attributes:
        classes: number of classes, with the background.
        fpn_channels: channels of the pyramid's levels and of the convolutions of the heads.
        head_width: features of the linear layers of the box head.
        rois_per_image: RoIs sampled per image in training.
        strides: strides of the levels that RoIs are pooled from, in pixels.
        batch_norm: box head of four convolutions and one linear layer, and batch norms in all heads; else two linear
            layers.
        masks: whether there is a mask head.
        detections: most detections per image.
    """

    classes: int
    fpn_channels: int
    head_width: int
    rois_per_image: int
    strides: tuple[int, ...]
    batch_norm: bool
    masks: bool = True
    detections: int = 100


def build_cascade(parts: Conventions, spec: HeadSpec) -> CascadeRoIHeads:
    """Build the three stages of Cascade R-CNN, with IoU thresholds of 0.5, 0.6 and 0.7 (arXiv 1712.00726).

    Args:
        parts: conventions.
        spec: sizes.

    Returns:
        The heads; each stage has four class-agnostic deltas per RoI, scaled by ever smaller deviations.
    """
    stages = []
    for iou, (center, size) in zip((0.5, 0.6, 0.7), ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067)), strict=True):
        weights = (1 / center, 1 / center, 1 / size, 1 / size)
        stage = build_heads(parts, spec, kind="cascade_mask_rcnn", iou_threshold=iou, box_weights=weights)
        stage.box_predictor.bbox_pred = nn.Linear(spec.head_width, 4)
        stages.append(stage)
    return CascadeRoIHeads(stages, (1.0, 0.5, 0.25))


def build_heads(
    parts: Conventions,
    spec: HeadSpec,
    *,
    kind: str,
    iou_threshold: float = 0.5,
    box_weights: tuple[float, float, float, float] = _BOX_WEIGHTS,
) -> RoIHeads:
    """Build one stage of box and mask heads.

    Args:
        parts: conventions.
        spec: sizes.
        kind: detector, a key of `parts.roi_heads`.
        iou_threshold: IoU with an object from which on an RoI is positive, in [0, 1].
        box_weights: weights of the four box deltas.

    Returns:
        The heads, with a score threshold of 0.05 and an NMS threshold of 0.5.
    """
    box_head = _build_box_head(spec)
    return parts.roi_heads[kind](
        box_coder=parts.box_coder(box_weights),
        box_roi_pool=parts.roi_pool(_BOX_SIDE, spec.strides),
        box_head=box_head,
        box_predictor=BoxPredictor(spec.head_width, spec.classes),
        fg_iou_thresh=iou_threshold,
        bg_iou_thresh=iou_threshold,
        batch_size_per_image=spec.rois_per_image,
        positive_fraction=0.25,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=spec.detections,
        **(_build_mask_parts(parts, spec) if spec.masks else {}),
    )


def limit_detections(detector: nn.Module, count: int) -> None:
    """Limit the number of detections that a detector returns per image.

    Args:
        detector: the network, changed in place.
        count: most detections per image, 1 or more.
    """
    for module in detector.modules():
        if isinstance(module, RoIHeads):
            module.detections_per_img = count


def _build_mask_parts(parts: Conventions, spec: HeadSpec) -> dict[str, nn.Module]:
    channels, norm = spec.fpn_channels, nn.BatchNorm2d if spec.batch_norm else None
    return {
        "mask_roi_pool": parts.roi_pool(_MASK_SIDE, spec.strides),
        "mask_head": MaskRCNNHeads(channels, [channels] * 4, 1, norm_layer=norm),
        "mask_predictor": MaskPredictor(channels, channels, spec.classes),
    }


def _build_box_head(spec: HeadSpec) -> nn.Module:
    if not spec.batch_norm:
        return TwoMLPHead(spec.fpn_channels * _BOX_SIDE**2, spec.head_width)
    pooled = (spec.fpn_channels, _BOX_SIDE, _BOX_SIDE)
    return FastRCNNConvFCHead(pooled, [spec.fpn_channels] * 4, [spec.head_width], norm_layer=nn.BatchNorm2d)
