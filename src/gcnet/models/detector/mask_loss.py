"""Mask loss over objects that have a mask, with targets converted a few at a time."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, project_masks_on_boxes

_CHUNK = 16  # masks in floating point at a time


class MaskSkippingRoIHeads(RoIHeads):
    """torchvision's heads, whose mask loss skips objects that have a box but no mask.

    Targets may hold `has_mask` (n,), bool; without it all objects have masks, and the losses are torchvision's.
    """

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections of each image in evaluation mode, losses by name in training mode; the other is empty."""
        if not self.training or not self.has_mask():
            return super().forward(features, proposals, image_shapes, targets)
        assert targets is not None
        sampled, matched, labels, wanted = self.select_training_samples(proposals, targets)
        pooled = self.box_roi_pool(features, sampled, image_shapes)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        classes, boxes = fastrcnn_loss(logits, deltas, labels, wanted)
        masks = mask_loss(self, features, sampled, matched, labels, image_shapes, targets)
        return [], {"loss_classifier": classes, "loss_box_reg": boxes, "loss_mask": masks}


def mask_loss(
    heads: Any,  # RoIHeads with its mask parts
    features: dict[str, Tensor],
    sampled: list[Tensor],
    matched: list[Tensor],
    labels: list[Tensor],
    image_shapes: list[tuple[int, int]],
    targets: list[dict[str, Tensor]],
) -> Tensor:
    """Binary cross-entropy of the predicted masks over the regions of objects that have a mask.

    Args:
        heads: of one stage.
        features: maps of the pyramid by name.
        sampled: regions (n, 4) of each image, corners in pixels.
        matched: index of the object that each region belongs to, (n,).
        labels: class of each region, 0 for background, (n,).
        image_shapes: height and width of each image.
        targets: of each image: `labels` (k,), `masks` (k, H, W) of 0 and 1 and, optionally, `has_mask` (k,).
    """
    kept = [
        torch.where((found > 0) & _has_mask(target, indices))[0]
        for found, indices, target in zip(labels, matched, targets, strict=True)
    ]
    regions = [boxes[rows] for boxes, rows in zip(sampled, kept, strict=True)]
    indices = [found[rows] for found, rows in zip(matched, kept, strict=True)]
    is_empty = not any(map(len, regions))
    # The layers still run: every process needs gradients of the same parameters, and norms need a batch.
    seen = [boxes[:1] for boxes in sampled] if is_empty else regions
    logits = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, seen, image_shapes)))
    if is_empty:
        return logits.sum() * 0
    side = logits.shape[-1]
    wanted = torch.cat(
        [
            _mask_targets(target["masks"], boxes, rows, side)
            for target, boxes, rows in zip(targets, regions, indices, strict=True)
        ]
    )
    classes = torch.cat([target["labels"][rows] for target, rows in zip(targets, indices, strict=True)])
    return F.binary_cross_entropy_with_logits(
        logits[torch.arange(len(classes), device=classes.device), classes], wanted
    )


def _has_mask(target: dict[str, Tensor], indices: Tensor) -> Tensor:
    """Whether the object of each region has a mask; an image without objects has regions of background only."""
    if "has_mask" not in target or not len(target["has_mask"]):
        return torch.ones_like(indices, dtype=torch.bool)
    return target["has_mask"][indices]


def _mask_targets(masks: Tensor, boxes: Tensor, indices: Tensor, side: int) -> Tensor:
    """The masks (k, H, W) cropped to the boxes (n, 4) that they are matched with, (n, side, side)."""
    if len(masks) <= _CHUNK:
        return project_masks_on_boxes(masks, boxes, indices, side)
    targets = boxes.new_zeros(len(boxes), side, side)
    for start in range(0, len(masks), _CHUNK):
        rows = torch.where((indices >= start) & (indices < start + _CHUNK))[0]
        if len(rows):
            part = masks[start : start + _CHUNK]
            targets[rows] = project_masks_on_boxes(part, boxes[rows], indices[rows] - start, side)
    return targets
