"""The heads of Cascade R-CNN (arXiv 1712.00726): three stages, each refining the boxes of the one before."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.ops import clip_boxes_to_image

from gcnet.models.detector.mask_loss import mask_loss


class CascadeRoIHeads(nn.Module):
    """Three `RoIHeads` in a row, called as one.

    A stage regresses boxes without regard to class, and passes them on. In evaluation the class logits are averaged
    over the stages, the boxes are the last one's, and in these the stages' mask probabilities are averaged. In training
    each stage samples at an overlap of its own among the boxes that reach it and the true ones, and its losses weigh
    less than those of the stage before; a true box itself is not passed on.

    Args:
        stages: heads with box and mask parts, whose box predictor has four deltas.
        loss_weights: one a stage.
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
        """Detections of each image in evaluation mode, losses by name in training mode; the other is empty."""
        if self.training:
            assert targets is not None
            return [], self._losses(features, proposals, image_shapes, targets)
        return self._detections(features, proposals, image_shapes), {}

    def _detections(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        last, logits = self.stages[-1], []
        for stage in self.stages:
            found, deltas = _predict(stage, features, proposals, image_shapes)
            logits.append(found)
            if stage is not last:
                proposals = _refined(stage, deltas, proposals, image_shapes)
        averaged = torch.stack(logits).mean(0)
        of_every_class = deltas.repeat(1, averaged.shape[1])
        boxes, scores, labels = last.postprocess_detections(averaged, of_every_class, proposals, image_shapes)
        regions = last.mask_roi_pool(features, boxes, image_shapes)
        each = [
            torch.cat(maskrcnn_inference(stage.mask_predictor(stage.mask_head(regions)), labels))
            for stage in self.stages
        ]
        masks = torch.stack(each).mean(0).split([len(found) for found in boxes])
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
            sampled, matched, labels, wanted = stage.select_training_samples(proposals, targets)
            logits, deltas = _predict(stage, features, sampled, image_shapes)
            found = _box_losses(logits, deltas, torch.cat(labels), torch.cat(wanted))
            found["loss_mask"] = mask_loss(stage, features, sampled, matched, labels, image_shapes, targets)
            losses |= {f"stage{number}.{name}": weight * loss for name, loss in found.items()}
            refined = _refined(stage, deltas.detach(), sampled, image_shapes)
            proposals = [
                new[_is_kept(new) & ~_is_among(old, target["boxes"])]
                for new, old, target in zip(refined, sampled, targets, strict=True)
            ]
        return losses


def _predict(
    stage: RoIHeads, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Class logits (N, classes) and deltas (N, 4) of the regions of all images."""
    return stage.box_predictor(stage.box_head(stage.box_roi_pool(features, proposals, image_shapes)))


def _refined(
    stage: RoIHeads, deltas: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
) -> list[Tensor]:
    """The boxes that a stage makes of its regions, within their image."""
    decoded = stage.box_coder.decode(deltas, proposals).reshape(-1, 4).split([len(boxes) for boxes in proposals])
    return [clip_boxes_to_image(boxes, shape) for boxes, shape in zip(decoded, image_shapes, strict=True)]


def _box_losses(logits: Tensor, deltas: Tensor, labels: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, and smooth L1 with beta 1 over the regions of objects, each a mean over all regions."""
    objects = labels > 0
    distance = F.smooth_l1_loss(deltas[objects], wanted[objects], beta=1.0, reduction="sum")
    return {"loss_classifier": F.cross_entropy(logits, labels), "loss_box_reg": distance / labels.numel()}


def _is_kept(boxes: Tensor) -> Tensor:
    """Whether each box still has an area."""
    return (boxes[:, 2:] > boxes[:, :2]).all(dim=1)


def _is_among(boxes: Tensor, others: Tensor) -> Tensor:
    """Whether each box is one of the others."""
    return (boxes[:, None] == others[None].to(boxes.dtype)).all(dim=2).any(dim=1)
