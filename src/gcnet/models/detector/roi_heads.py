"""RoI pooling, box decoding and mask loss of a detector's second stage."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, project_masks_on_boxes
from torchvision.ops import batched_nms, clip_boxes_to_image, roi_align

_CANONICAL_CELLS = 14  # side in cells of the smallest RoI of the second level: 56 pixels at a finest stride of 4
_MASK_CHUNK = 16  # ground-truth masks converted to floating point at a time


class AlignedRoIPool(nn.Module):
    """RoIAlign of mmdet 2 and 3 over the levels of a feature pyramid: pixel-centered, with an adaptive sampling ratio.

    An RoI of area A is pooled from level `floor(log2(sqrt(A) / (14 s) + 1e-6))` for a finest stride of s, clamped to
    the existing levels (feature pyramid networks, arXiv 1612.03144, eq. 1, where s is 4).

    Args:
        levels: names of the feature maps, the finest first.
        output_size: side of the pooled maps, in cells.
        strides: stride of each level in pixels.
    """

    def __init__(self, levels: tuple[str, ...], output_size: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels
        self.output_size = (output_size, output_size)
        self.strides = strides

    def forward(
        self,
        x: dict[str, Tensor],
        boxes: list[Tensor],
        image_shapes: list[tuple[int, int]],  # noqa: ARG002
    ) -> Float[Tensor, "rois channels side side"]:
        """Pool the RoIs of all images.

        Args:
            x: feature maps (N, C, H, W) by level name.
            boxes: RoIs of each image (R, 4), as left, top, right, bottom in pixels.
            image_shapes: height and width of each image; unused, part of torchvision's interface.

        Returns:
            One pooled map per RoI, image by image.
        """
        regions = torch.cat(boxes)
        images = torch.cat([torch.full((len(rows), 1), float(i)) for i, rows in enumerate(boxes)]).to(regions)
        rois = torch.cat([images, regions], dim=1)  # (R, 5)
        level = roi_levels(regions, len(self.levels), self.strides[0])
        chosen = [torch.nonzero(level == number).squeeze(1) for number in range(len(self.levels))]
        parts = [
            self._pool(x[name], rois[rows], stride)
            for name, rows, stride in zip(self.levels, chosen, self.strides, strict=True)
        ]
        return torch.cat(parts)[torch.cat(chosen).argsort()]

    def _pool(
        self, features: Float[Tensor, "n c h w"], rois: Float[Tensor, "r 5"], stride: int
    ) -> Float[Tensor, "r c side side"]:
        # In the precision of the RoIs: in half precision a corner at 800 pixels would move by whole pixels.
        pooled = roi_align(features.to(rois.dtype), rois, self.output_size, 1 / stride, 0, aligned=True)
        return pooled.to(features.dtype)

    def extra_repr(self) -> str:
        return f"{self.levels}, output_size={self.output_size}, strides={self.strides}"


def roi_levels(rois: Float[Tensor, "n 4"], count: int, finest_stride: int = 4) -> Int[Tensor, " n"]:
    """Assign each RoI to a level of the feature pyramid (arXiv 1612.03144, eq. 1).

    Args:
        rois: left, top, right, bottom in pixels.
        count: number of levels.
        finest_stride: stride of the finest level in pixels.

    Returns:
        Level of each RoI, int64, 0 for the finest.
    """
    sides = rois[:, 2:] - rois[:, :2]
    finest = float(_CANONICAL_CELLS * finest_stride)
    return torch.floor(torch.log2(sides.prod(dim=1).sqrt() / finest + 1e-6)).clamp(0, count - 1).long()


class ClampedBoxCoder(BoxCoder):
    """torchvision's `BoxCoder` with the width and height ratios clamped on both sides, to 16/1000 and 1000/16."""

    def decode_single(
        self, rel_codes: Float[Tensor, "n deltas"], boxes: Float[Tensor, "n 4"]
    ) -> Float[Tensor, "n deltas"]:
        deltas = rel_codes.clone().unflatten(1, (-1, 4))  # (N, K, 4)
        for axis in (2, 3):
            deltas[..., axis].clamp_(min=-self.bbox_xform_clip * self.weights[axis])
        return super().decode_single(deltas.flatten(1), boxes)


class MaskSkippingRoIHeads(RoIHeads):
    """torchvision's `RoIHeads`, whose mask loss skips objects without a mask.

    Targets may hold `has_mask` (K,), bool; without it every object has a mask and the losses are torchvision's.
    """

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Predict detections in evaluation mode, or compute losses in training mode.

        Args:
            features: feature maps (N, C, H, W) by level name.
            proposals: proposals of each image (P, 4), as left, top, right, bottom in pixels.
            image_shapes: height and width of each image.
            targets: in training mode, `boxes` (K, 4), `labels` (K,) int64 from 1, `masks` (K, H, W) uint8 and
                optionally `has_mask` (K,) bool of each image.

        Returns:
            Detections of each image (empty in training mode): `boxes` (D, 4), `labels` (D,), `scores` (D,) and
            `masks` (D, 1, M, M); and scalar losses by name (empty in evaluation mode).
        """
        if not self.training or not self.has_mask():
            return super().forward(features, proposals, image_shapes, targets)
        assert targets is not None
        sampled, matched, labels, box_targets = self.select_training_samples(proposals, targets)
        pooled = self.box_roi_pool(features, sampled, image_shapes)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        loss_classifier, loss_box = fastrcnn_loss(logits, deltas, labels, box_targets)
        loss_mask = mask_loss(self, features, sampled, matched, labels, image_shapes, targets)
        return [], {"loss_classifier": loss_classifier, "loss_box_reg": loss_box, "loss_mask": loss_mask}


class UnfilteredRoIHeads(MaskSkippingRoIHeads):
    """`MaskSkippingRoIHeads` without torchvision's removal of detections smaller than 0.01 pixels, as in mmdet.

    mmdet applies non-maximum suppression after scaling boxes back to the original image; the overlaps are the same
    before.
    """

    def postprocess_detections(
        self,
        class_logits: Float[Tensor, "n classes"],
        box_regression: Float[Tensor, "n deltas"],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Decode boxes and apply score threshold and non-maximum suppression.

        Args:
            class_logits: of the proposals of all images.
            box_regression: box deltas, four per class.
            proposals: proposals of each image (P, 4), as left, top, right, bottom in pixels.
            image_shapes: height and width of each image.

        Returns:
            Boxes (D, 4), scores (D,) and labels (D,) of each image, by descending score.
        """
        counts = [len(boxes) for boxes in proposals]
        decoded = self.box_coder.decode(box_regression, proposals).reshape(sum(counts), class_logits.shape[1], 4)
        detections = [
            self._suppress(clip_boxes_to_image(boxes, shape), scores)
            for boxes, scores, shape in zip(
                decoded.split(counts), class_logits.softmax(-1).split(counts), image_shapes, strict=True
            )
        ]
        boxes, scores, labels = zip(*detections, strict=True)
        return list(boxes), list(scores), list(labels)

    def _suppress(
        self, boxes: Float[Tensor, "n classes 4"], scores: Float[Tensor, "n classes"]
    ) -> tuple[Float[Tensor, "d 4"], Float[Tensor, " d"], Int[Tensor, " d"]]:
        """Boxes, scores and labels (from 1) above the score threshold after suppression by class, the best first."""
        rows, classes = torch.nonzero(scores[:, 1:] > self.score_thresh, as_tuple=True)
        labels = classes + 1
        boxes, scores = boxes[rows, labels], scores[rows, labels]
        kept = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return boxes[kept], scores[kept], labels[kept]


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
            _mask_targets(target["masks"], boxes, rows, side)
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


def _mask_targets(
    masks: Tensor, boxes: Float[Tensor, "r 4"], indices: Int[Tensor, " r"], side: int
) -> Float[Tensor, "r side side"]:
    """The masks (K, H, W) cropped to the boxes that they are matched with."""
    if len(masks) <= _MASK_CHUNK:
        return project_masks_on_boxes(masks, boxes, indices, side)
    targets = boxes.new_zeros(len(boxes), side, side)
    for start in range(0, len(masks), _MASK_CHUNK):
        rows = torch.where((indices >= start) & (indices < start + _MASK_CHUNK))[0]
        if len(rows):
            part = masks[start : start + _MASK_CHUNK]
            targets[rows] = project_masks_on_boxes(part, boxes[rows], indices[rows] - start, side)
    return targets
