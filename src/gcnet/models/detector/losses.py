"""Losses of boxes and masks, and the targets of masks, of each implementation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import roi_align

from gcnet.ops.opencv_resize import resize_bilinear

_MASK_CHUNK = 16  # ground-truth masks converted to floating point at a time

BoxLoss = Callable[[Tensor, Tensor], Tensor]
"""Box deltas (N, 4) and their targets (N, 4) -> loss (), summed."""

MaskTargets = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Masks (K, H, W) of 0 and 1, boxes (R, 4), the mask of each box (R,) and side -> targets (R, side, side) in [0, 1]."""

l1: BoxLoss = partial(F.l1_loss, reduction="sum")
"""L1 loss, summed."""


def smooth_l1(beta: float) -> BoxLoss:
    """Return the smooth L1 loss, summed.

    Args:
        beta: difference up to which it is quadratic, above 0.
    """
    return partial(F.smooth_l1_loss, beta=beta, reduction="sum")


def box_losses(
    logits: Float[Tensor, "rois classes"],
    deltas: Float[Tensor, "rois deltas"],
    labels: Int[Tensor, " rois"],
    targets: Float[Tensor, "rois 4"],
    box_loss: BoxLoss,
) -> dict[str, Tensor]:
    """Compute class and box losses of sampled RoIs, each divided by their number.

    Args:
        logits: class logits.
        deltas: four box deltas, or four for each class.
        labels: class of each RoI, 0 for background.
        targets: box deltas to the object of each RoI.
        box_loss: loss of the box deltas of positive RoIs.

    Returns:
        Cross-entropy `loss_classifier` and `loss_box_reg`, each of shape ().
    """
    rows = torch.where(labels > 0)[0]
    by_class = deltas.unflatten(1, (-1, 4))
    own = by_class[rows, labels[rows]] if by_class.shape[1] > 1 else by_class[rows, 0]
    distance = box_loss(own, targets[rows])
    return {"loss_classifier": F.cross_entropy(logits, labels), "loss_box_reg": distance / labels.numel()}


def mask_loss(
    heads: Any,
    features: dict[str, Tensor],
    sampled: list[Tensor],
    matched: list[Tensor],
    labels: list[Tensor],
    image_shapes: list[tuple[int, int]],
    targets: list[dict[str, Tensor]],
) -> Float[Tensor, ""]:
    """Compute the binary cross-entropy of the predicted masks over the RoIs of objects with a mask.

    Args:
        heads: `RoIHeads` with mask parts.
        features: feature maps (N, C, H, W) by level name.
        sampled: RoIs of each image (R, 4), as left, top, right, bottom in pixels.
        matched: index of the object that each RoI is matched with, (R,) int64.
        labels: class of each RoI, 0 for background, (R,) int64.
        image_shapes: height and width of each image.
        targets: of each image, `labels` (K,), `masks` (K, H, W) of 0 and 1 and optionally `has_mask` (K,).

    Returns:
        The mean loss; zero, with a gradient for every parameter of the mask head, if no RoI has a mask.
    """
    kept = [
        torch.where((classes > 0) & _has_mask(target, indices))[0]
        for classes, indices, target in zip(labels, matched, targets, strict=True)
    ]
    rois = [boxes[rows] for boxes, rows in zip(sampled, kept, strict=True)]
    indices = [objects[rows] for objects, rows in zip(matched, kept, strict=True)]
    is_empty = not any(map(len, rois))
    # The layers still run: every process needs gradients of the same parameters, and norms need a batch.
    pooled_rois = [boxes[:1] for boxes in sampled] if is_empty else rois
    logits = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, pooled_rois, image_shapes)))
    if is_empty:
        return logits.sum() * 0
    side = logits.shape[-1]
    mask_targets = torch.cat(
        [
            heads.mask_targets(target["masks"], boxes, rows, side)
            for target, boxes, rows in zip(targets, rois, indices, strict=True)
        ]
    )
    classes = torch.cat([target["labels"][rows] for target, rows in zip(targets, indices, strict=True)])
    own_logits = logits[torch.arange(len(classes), device=classes.device), classes]  # (R, side, side)
    return F.binary_cross_entropy_with_logits(own_logits, mask_targets)


def _has_mask(target: dict[str, Tensor], indices: Int[Tensor, " r"]) -> Bool[Tensor, " r"]:
    """Whether the object of each RoI has a mask; images without objects have background RoIs only."""
    if "has_mask" not in target or not len(target["has_mask"]):
        return torch.ones_like(indices, dtype=torch.bool)
    return target["has_mask"][indices]


def projected_mask_targets(
    masks: Tensor, boxes: Float[Tensor, "r 4"], indices: Int[Tensor, " r"], side: int
) -> Float[Tensor, "r side side"]:
    """Compute torchvision's mask targets: RoIAlign with an offset of half a pixel, fractions kept.

    Args:
        masks: ground-truth masks (K, H, W) of 0 and 1.
        boxes: RoIs, as left, top, right, bottom in pixels.
        indices: mask of each RoI.
        side: of the targets, in cells.

    Returns:
        The targets, in [0, 1].
    """
    return _in_chunks(project_masks_on_boxes, masks, boxes, indices, side)


def aligned_mask_targets(
    masks: Tensor, boxes: Float[Tensor, "r 4"], indices: Int[Tensor, " r"], side: int
) -> Float[Tensor, "r side side"]:
    """Compute the mask targets of mmdet 2 and 3: pixel-centered RoIAlign with an adaptive sampling ratio, from 1/2 on.

    Args:
        masks: ground-truth masks (K, H, W) of 0 and 1.
        boxes: RoIs, as left, top, right, bottom in pixels.
        indices: mask of each RoI.
        side: of the targets, in cells.

    Returns:
        The targets, 0 or 1.
    """
    return _in_chunks(_align, masks, boxes, indices, side)


def cropped_mask_targets(
    masks: Tensor, boxes: Float[Tensor, "r 4"], indices: Int[Tensor, " r"], side: int
) -> Float[Tensor, "r side side"]:
    """Compute the mask targets of mmdet 1: the whole pixels of the RoI, resized as OpenCV resizes 8-bit images.

    Args:
        masks: ground-truth masks (K, H, W) uint8 of 0 and 1.
        boxes: RoIs, as left, top, right, bottom pixel.
        indices: mask of each RoI.
        side: of the targets, in cells.

    Returns:
        The targets, 0 or 1.
    """
    targets = boxes.new_zeros(len(boxes), side, side)
    rows = zip(boxes.int().tolist(), indices.tolist(), strict=True)
    for number, ((left, top, right, bottom), index) in enumerate(rows):
        crop = masks[index, None, top : max(bottom, top) + 1, left : max(right, left) + 1]
        targets[number] = resize_bilinear(crop, side, side)[0]
    return targets


def _align(
    masks: Tensor, boxes: Float[Tensor, "r 4"], indices: Int[Tensor, " r"], side: int
) -> Float[Tensor, "r side side"]:
    rois = torch.cat([indices[:, None].to(boxes), boxes], dim=1)
    shares = roi_align(masks[:, None].to(boxes.dtype), rois, (side, side), 1.0, 0, aligned=True)
    return (shares[:, 0] >= 0.5).to(boxes.dtype)


def _in_chunks(
    targets_of: MaskTargets, masks: Tensor, boxes: Float[Tensor, "r 4"], indices: Int[Tensor, " r"], side: int
) -> Float[Tensor, "r side side"]:
    if len(masks) <= _MASK_CHUNK:
        return targets_of(masks, boxes, indices, side)
    targets = boxes.new_zeros(len(boxes), side, side)
    for start in range(0, len(masks), _MASK_CHUNK):
        rows = torch.where((indices >= start) & (indices < start + _MASK_CHUNK))[0]
        if len(rows):
            targets[rows] = targets_of(masks[start : start + _MASK_CHUNK], boxes[rows], indices[rows] - start, side)
    return targets
