"""RoI pooling, box decoding, samples and detections of a detector's second stage."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import roi_align

from gcnet.models.detector.coordinates import EDGES, BoxCoordinates
from gcnet.models.detector.losses import BoxLoss, MaskTargets, box_losses, mask_loss
from gcnet.models.detector.matching import BoxPairs, MaxIoUMatcher

_CANONICAL_CELLS = 14  # side in cells of the smallest RoI of the second level: 56 pixels at a finest stride of 4


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
            self._suppress(self.coordinates.clip(boxes, shape), scores)
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
        kept = self.coordinates.suppress(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return boxes[kept], scores[kept], labels[kept]


def _labels(labels: Int[Tensor, " k"], matches: Int[Tensor, " r"]) -> Int[Tensor, " r"]:
    """The label of the object of each RoI; 0 for background, -1 for RoIs that are ignored."""
    unmatched = torch.where(matches == MaxIoUMatcher.BELOW_LOW_THRESHOLD, 0, -1)
    return torch.where(matches >= 0, labels[matches.clamp(min=0)], unmatched) if len(labels) else unmatched
