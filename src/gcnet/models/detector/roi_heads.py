"""Samples, losses and detections of a detector's second stage."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.roi_heads import RoIHeads

from gcnet.models.detector.coordinates import EDGES, BoxCoordinates
from gcnet.models.detector.losses import BoxLoss, MaskTargets, box_losses, mask_loss
from gcnet.models.detector.matching import BoxPairs, MaxIoUMatcher


class MaskSkippingRoIHeads(RoIHeads):
    """torchvision's `RoIHeads`, whose mask loss skips objects without a mask.

    Targets may hold `has_mask` (K,), bool; without it every object has a mask.

    Args:
        box_coder: of the box deltas.
        box_loss: loss of box deltas, summed.
        mask_targets: targets of masks.
        arguments: of torchvision's `RoIHeads`.
    """

    coordinates = EDGES

    def __init__(self, *, box_coder: BoxCoder, box_loss: BoxLoss, mask_targets: MaskTargets, **arguments: Any) -> None:
        super().__init__(bbox_reg_weights=None, **arguments)
        self.box_coder = box_coder
        self.box_loss = box_loss
        self.mask_targets = mask_targets

    def large_enough(self, boxes: Float[Tensor, "*n 4"]) -> Bool[Tensor, "*n"]:
        """Return which clipped boxes are large enough to be detections: 0.01 pixels wide and high."""
        return (boxes[..., 2:] - boxes[..., :2] >= 1e-2).all(dim=-1)

    def original(self, boxes: Float[Tensor, "*n 4"], shape: Any) -> Float[Tensor, "*n 4"]:  # noqa: ARG002
        """Return boxes whose overlaps are those in the original image.

        Args:
            boxes: left, top, right, bottom in pixels.
            shape: height and width of the resized image.
        """
        return boxes

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
        if not self.training:
            return super().forward(features, proposals, image_shapes, targets)
        assert targets is not None
        sampled, matched, labels, box_targets = self.select_training_samples(proposals, targets)
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, sampled, image_shapes)))
        losses = box_losses(logits, deltas, torch.cat(labels), torch.cat(box_targets), self.box_loss)
        if self.has_mask():
            losses["loss_mask"] = mask_loss(self, features, sampled, matched, labels, image_shapes, targets)
        return [], losses


class MMDetRoIHeads(MaskSkippingRoIHeads):
    """RoI heads of mmdet: RoIs are matched before ground-truth boxes are added, and small detections are kept.

    torchvision removes detections with a side below 0.01 pixels. mmdet 2 applies non-maximum suppression after scaling
    boxes back to the original image; the overlaps are the same before.

    Args:
        coordinates: meaning of the coordinates of boxes.
        min_best: smallest highest IoU of an object whose best RoIs are matched with it (see `MaxIoUMatcher`), as a
            factor of the IoU from which on an RoI is positive.
        arguments: of `MaskSkippingRoIHeads`.
    """

    def __init__(self, *, coordinates: BoxCoordinates, min_best: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.coordinates = coordinates
        iou = arguments["fg_iou_thresh"]
        self.matcher = MaxIoUMatcher(iou, iou, min_best=min_best * iou, iou=coordinates.iou)

    def large_enough(self, boxes: Float[Tensor, "*n 4"]) -> Bool[Tensor, "*n"]:
        return torch.ones_like(boxes[..., 0], dtype=torch.bool)

    def select_training_samples(
        self, proposals: list[Tensor], targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Sample RoIs from the ground-truth boxes and the proposals.

        Args:
            proposals: proposals of each image (P, 4), in pixels.
            targets: `boxes` (K, 4) and `labels` (K,) int64 from 1 of each image, and `masks` with a mask head.

        Returns:
            Of each image: RoIs (R, 4), the index of their object (R,), their label (R,), 0 for background, and the
            targets of their box deltas (R, 4), 0 for background.
        """
        self.check_targets(targets)
        assert targets is not None
        objects = [target["boxes"].to(boxes) for boxes, target in zip(proposals, targets, strict=True)]
        matches = [
            torch.cat([torch.arange(len(own), device=own.device), self.matcher(BoxPairs(own, boxes))])
            for own, boxes in zip(objects, proposals, strict=True)
        ]
        labels = [_labels(target["labels"], found) for target, found in zip(targets, matches, strict=True)]
        rows = self.subsample(labels)
        rois = [torch.cat(pair)[chosen] for *pair, chosen in zip(objects, proposals, rows, strict=True)]
        matches = [found[chosen].clamp(min=0) for found, chosen in zip(matches, rows, strict=True)]
        labels = [own[chosen] for own, chosen in zip(labels, rows, strict=True)]
        box_targets = [self._box_targets(*row) for row in zip(objects, rois, matches, labels, strict=True)]
        return rois, matches, labels, box_targets

    def _box_targets(
        self,
        objects: Float[Tensor, "k 4"],
        rois: Float[Tensor, "r 4"],
        matches: Int[Tensor, " r"],
        labels: Int[Tensor, " r"],
    ) -> Float[Tensor, "r 4"]:
        targets = torch.zeros_like(rois)
        rows = torch.where(labels > 0)[0]
        targets[rows] = self.box_coder.encode_single(objects[matches[rows]], rois[rows])
        return targets

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
            self._suppress(self.coordinates.clip(boxes, shape), scores, shape)
            for boxes, scores, shape in zip(
                decoded.split(counts), class_logits.softmax(-1).split(counts), image_shapes, strict=True
            )
        ]
        boxes, scores, labels = zip(*detections, strict=True)
        return list(boxes), list(scores), list(labels)

    def _suppress(
        self, boxes: Float[Tensor, "n classes 4"], scores: Float[Tensor, "n classes"], shape: tuple[int, int]
    ) -> tuple[Float[Tensor, "d 4"], Float[Tensor, " d"], Int[Tensor, " d"]]:
        """Boxes, scores and labels (from 1) above the score threshold after suppression by class, the best first."""
        rows, classes = torch.nonzero(scores[:, 1:] > self.score_thresh, as_tuple=True)
        labels = classes + 1
        boxes, scores = boxes[rows, labels], scores[rows, labels]
        kept = self.coordinates.suppress(self.original(boxes, shape), scores, labels, self.nms_thresh)[
            : self.detections_per_img
        ]
        return boxes[kept], scores[kept], labels[kept]


class MMDet1RoIHeads(MMDetRoIHeads):
    """RoI heads of mmdet 1: non-maximum suppression in the original image, in which a box ends after its last pixel.

    The shapes of images are `ScaledShape`.

    Args:
        arguments: of `MMDetRoIHeads`.
    """

    def original(self, boxes: Float[Tensor, "*n 4"], shape: Any) -> Float[Tensor, "*n 4"]:
        return boxes / shape.scale


def _labels(labels: Int[Tensor, " k"], matches: Int[Tensor, " r"]) -> Int[Tensor, " r"]:
    """The label of the object of each RoI; 0 for background, -1 for RoIs that are ignored."""
    unmatched = torch.where(matches == MaxIoUMatcher.BELOW_LOW_THRESHOLD, 0, -1)
    return torch.where(matches >= 0, labels[matches.clamp(min=0)], unmatched) if len(labels) else unmatched
