"""Detectors as graphs without data-dependent control flow, for export: fixed numbers of proposals and detections."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from gcnet.models.detector.static_transform import ResizedShape, static_transform
from gcnet.ops.group_suppression import suppress_groups

OUTPUTS = ("boxes", "scores", "labels", "count", "masks", "mask_boxes")
"""Names of the outputs of `StaticDetector`; the last two of detectors with masks only."""

_MASK_SIDE = 28
_ABSENT = -1.0  # score of rows without a box


class _Best(NamedTuple):
    """The best boxes of each image, the highest score first; rows without a box have the score `_ABSENT`."""

    rows: Int[Tensor, "n k"]
    scores: Float[Tensor, "n k"]

    @property
    def real(self) -> Bool[Tensor, "n k"]:
        return self.scores > _ABSENT


def _best(scores: Float[Tensor, "n m"], count: int) -> _Best:
    values, rows = F.pad(scores, (0, count), value=_ABSENT).topk(count, dim=1)
    return _Best(torch.where(values > _ABSENT, rows, 0), values)


class StaticDetector(nn.Module):
    """A detector in evaluation mode with results of fixed size, whose detections are those of the detector.

    Args:
        detector: the detector, a result of `build_mask_rcnn`.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        parts: Any = detector
        self.transform: Any = static_transform(parts.transform)
        self.backbone, self.rpn, heads = parts.backbone, parts.rpn, parts.roi_heads
        self.stages: Any = heads.stages if hasattr(heads, "stages") else nn.ModuleList([heads])
        self.detections = self.stages[-1].detections_per_img

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return OUTPUTS if self.stages[-1].has_mask() else OUTPUTS[:4]

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, ...]:
        """Detect the objects in images of one size.

        Args:
            images: RGB in [0, 1], float32.

        Returns:
            `boxes` (N, D, 4), left, top, right, bottom in pixels of the images; `scores` (N, D), descending; `labels`
            (N, D) int64 from 1; `count` (N,) int64, the number of detections, whose rows come first, and all others are
            zero; and with masks `masks` (N, D, 28, 28), probabilities, and `mask_boxes` (N, D, 4), the edges of each
            mask in pixels of the images.
        """
        batch, shape = self.transform(images)
        features = self.backbone(batch)
        proposals = self._propose(batch, features, shape)
        boxes, scores, labels = self._detect(features, *proposals, shape)
        real = scores > _ABSENT
        original = self.transform.original_boxes(boxes, shape)
        outputs = [original, scores, labels, real.sum(dim=1)]
        if self.stages[-1].has_mask():
            masks = self._masks(features, boxes.flatten(0, 1), labels.flatten())
            outputs += [masks.unflatten(0, labels.shape), self.transform.mask_boxes(original)]
        return tuple(
            output if output.dim() == 1 else torch.where(real.view(*real.shape, *[1] * (output.dim() - 2)), output, 0)
            for output in outputs
        )

    def _propose(
        self, batch: Float[Tensor, "n 3 h w"], features: dict[str, Tensor], shape: ResizedShape
    ) -> tuple[Float[Tensor, "n p 4"], Bool[Tensor, "n p"]]:
        """Return proposals and their validity mask, as `filter_proposals` of the region proposal network."""
        rpn: Any = self.rpn
        maps = list(features.values())
        logits, deltas = rpn.head(maps)
        (anchors,) = rpn.anchor_generator(ImageList(batch, [(0, 0)]), maps)
        _, deltas = concat_box_prediction_layers(logits, deltas)
        rows, score = _best_anchors(logits, rpn.pre_nms_top_n())
        chosen = _gather(deltas.view(batch.shape[0], -1, 4), rows.flatten(1))
        boxes = rpn.box_coder.decode_single(chosen.flatten(0, 1), anchors[rows.flatten()])
        boxes = rpn.coordinates.clip(boxes.view(*rows.shape, 4), shape.size)
        score = torch.where(rpn.large_enough(boxes), score, _ABSENT)
        kept = _suppress(rpn.coordinates.edges(boxes), score, rpn.nms_thresh)
        best = _best(kept.flatten(1), rpn.post_nms_top_n())
        return _gather(boxes.flatten(1, 2), best.rows), best.real

    def _detect(
        self,
        features: dict[str, Tensor],
        proposals: Float[Tensor, "n p 4"],
        real: Bool[Tensor, "n p"],
        shape: ResizedShape,
    ) -> tuple[Float[Tensor, "n d 4"], Float[Tensor, "n d"], Int[Tensor, "n d"]]:
        """Return boxes in the resized images, scores and labels, as `postprocess_detections` of the heads."""
        last, rois, stage_logits = self.stages[-1], torch.where(real[..., None], proposals, 0).flatten(0, 1), []
        for stage in self.stages:
            pooled = stage.box_roi_pool.pool_on_every_level(features, rois, _image_indices(proposals))
            logits, deltas = stage.box_predictor(stage.box_head(pooled))
            stage_logits.append(logits)
            boxes = stage.coordinates.clip(
                stage.box_coder.decode_single(deltas, rois).unflatten(1, (-1, 4)), shape.size
            )
            if stage is not last:
                rois = boxes[:, 0]
        scores = torch.stack(stage_logits).mean(0).softmax(-1)[:, 1:].unflatten(0, real.shape)  # (N, P, classes)
        boxes = boxes[:, -scores.shape[2] :].unflatten(0, real.shape).expand(*scores.shape, 4)
        valid = real[..., None] & (scores > last.score_thresh) & last.large_enough(boxes)
        scores, boxes = torch.where(valid, scores, _ABSENT).transpose(1, 2), boxes.transpose(1, 2)
        kept = _suppress(last.coordinates.edges(last.original(boxes, shape)), scores, last.nms_thresh)
        best = _best(kept.transpose(1, 2).flatten(1), self.detections)
        labels = best.rows % scores.shape[1] + 1
        return _gather(boxes.transpose(1, 2).flatten(1, 2), best.rows), best.scores, labels

    def _masks(
        self, features: dict[str, Tensor], boxes: Float[Tensor, "m 4"], labels: Int[Tensor, " m"]
    ) -> Float[Tensor, "m side side"]:
        """Return the mask probabilities of the class of each box, averaged over the stages."""
        images = _image_indices(boxes.view(-1, self.detections, 4))
        pooled = self.stages[-1].mask_roi_pool.pool_on_every_level(features, boxes, images)
        rows = labels[:, None, None, None].expand(-1, 1, _MASK_SIDE, _MASK_SIDE)
        masks = [stage.mask_predictor(stage.mask_head(pooled)).gather(1, rows).sigmoid() for stage in self.stages]
        return torch.stack(masks).mean(0)[:, 0]


def _best_anchors(
    logits: list[Float[Tensor, "n anchors _ _"]], count: int
) -> tuple[Int[Tensor, "n levels k"], Float[Tensor, "n levels k"]]:
    """Return the anchors with the highest scores of each level, by index among those of all levels, and the scores."""
    chosen, scores, start = [], [], 0
    for level in logits:
        flat = level.permute(0, 2, 3, 1).flatten(1)
        values, rows = F.pad(flat, (0, count), value=-torch.inf).topk(count, dim=1)
        exists = rows < flat.shape[1]
        chosen.append(torch.where(exists, rows + start, 0))
        scores.append(torch.where(exists, values.sigmoid(), _ABSENT))
        start = start + flat.shape[1]
    return torch.stack(chosen, dim=1), torch.stack(scores, dim=1)


def _suppress(
    boxes: Float[Tensor, "n groups m 4"], scores: Float[Tensor, "n groups m"], threshold: float
) -> Float[Tensor, "n groups m"]:
    """Return the scores, `_ABSENT` where non-maximum suppression within a group removes the box."""
    kept = suppress_groups(boxes.flatten(0, 1), scores.flatten(0, 1), threshold)
    return torch.where(kept.unflatten(0, scores.shape[:2]), scores, _ABSENT)


def _gather(values: Float[Tensor, "n m 4"], rows: Int[Tensor, "n k"]) -> Float[Tensor, "n k 4"]:
    return values.gather(1, rows[..., None].expand(-1, -1, 4))


def _image_indices(boxes: Float[Tensor, "n p 4"]) -> Int[Tensor, " np"]:
    """The index of the image of each box."""
    return torch.arange(boxes.shape[0], device=boxes.device).repeat_interleave(boxes.shape[1])
