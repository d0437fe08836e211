"""The heads of Cascade R-CNN (arXiv 1712.00726): three stages, each refining the boxes of the previous stage."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference

from gcnet.models.detector.losses import box_losses, mask_loss


class CascadeRoIHeads(nn.Module):
    """A sequence of `RoIHeads` with the interface of one.

    Each stage refines the boxes of the previous one with class-agnostic deltas. In evaluation mode class probabilities
    come from the logits averaged over stages, boxes from the last stage, and masks from the mask probabilities averaged
    over stages. In training mode each stage samples RoIs at its own IoU threshold from the boxes of the previous stage
    and the ground truth; ground-truth boxes are not passed on.

    Args:
        stages: heads with box and mask parts, whose box predictor returns four deltas.
        loss_weights: weight of each stage's losses.
    """

    def __init__(self, stages: Sequence[RoIHeads], loss_weights: Sequence[float]) -> None:
        super().__init__()
        self.stages: Any = nn.ModuleList(stages)
        self.loss_weights = tuple(loss_weights)

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
        if self.training:
            assert targets is not None
            return [], self._losses(features, proposals, image_shapes, targets)
        return self._detections(features, proposals, image_shapes), {}

    def _detections(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        last, stage_logits = self.stages[-1], []
        for stage in self.stages:
            logits, deltas = _predict(stage, features, proposals, image_shapes)
            stage_logits.append(logits)
            if stage is not last:
                proposals = _refine(stage, deltas, proposals, image_shapes)
        mean_logits = torch.stack(stage_logits).mean(0)
        class_deltas = deltas.repeat(1, mean_logits.shape[1])  # postprocess_detections takes deltas of every class
        boxes, scores, labels = last.postprocess_detections(mean_logits, class_deltas, proposals, image_shapes)
        pooled = last.mask_roi_pool(features, boxes, image_shapes)
        stage_masks = [
            torch.cat(maskrcnn_inference(stage.mask_predictor(stage.mask_head(pooled)), labels))
            for stage in self.stages
        ]
        masks = torch.stack(stage_masks).mean(0).split([len(rows) for rows in boxes])
        return [
            {"boxes": boxes[i], "labels": labels[i], "scores": scores[i], "masks": masks[i]} for i in range(len(boxes))
        ]

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for number, (stage, weight) in enumerate(zip(self.stages, self.loss_weights, strict=True)):
            sampled, matched, labels, box_targets = stage.select_training_samples(proposals, targets)
            logits, deltas = _predict(stage, features, sampled, image_shapes)
            stage_losses = box_losses(logits, deltas, torch.cat(labels), torch.cat(box_targets), stage.box_loss)
            stage_losses["loss_mask"] = mask_loss(stage, features, sampled, matched, labels, image_shapes, targets)
            losses |= {f"stage{number}.{name}": weight * loss for name, loss in stage_losses.items()}
            refined = _refine(stage, deltas.detach(), sampled, image_shapes)
            proposals = [
                new[~_is_among(old, target["boxes"])]
                for new, old, target in zip(refined, sampled, targets, strict=True)
            ]
        return losses


def _predict(
    stage: RoIHeads, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
) -> tuple[Float[Tensor, "rois classes"], Float[Tensor, "rois 4"]]:
    """Class logits and box deltas of the RoIs of all images."""
    return stage.box_predictor(stage.box_head(stage.box_roi_pool(features, proposals, image_shapes)))


def _refine(
    stage: Any, deltas: Float[Tensor, "rois 4"], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
) -> list[Tensor]:
    """The decoded boxes of each image (R, 4), clipped to the image."""
    decoded = stage.box_coder.decode(deltas, proposals).reshape(-1, 4).split([len(boxes) for boxes in proposals])
    return [stage.coordinates.clip(boxes, shape) for boxes, shape in zip(decoded, image_shapes, strict=True)]


def _is_among(boxes: Float[Tensor, "n 4"], others: Float[Tensor, "m 4"]) -> Bool[Tensor, " n"]:
    return (boxes[:, None] == others[None].to(boxes.dtype)).all(dim=2).any(dim=1)
