"""From what a head says to boxes: the deltas of a box, and which boxes are kept."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, clip_boxes_to_image

from gcnet.models.detector.mask_loss import MaskSkippingRoIHeads


class ClampedBoxCoder(BoxCoder):
    """torchvision's coder with the change of width and height bounded on both sides, to 16/1000 and 1000/16."""

    def decode_single(self, rel_codes: Float[Tensor, "n deltas"], boxes: Float[Tensor, "n 4"]) -> Tensor:
        deltas = rel_codes.clone().unflatten(1, (-1, 4))  # (N, K, 4)
        for place in (2, 3):
            deltas[..., place].clamp_(min=-self.bbox_xform_clip * self.weights[place])
        return super().decode_single(deltas.flatten(1), boxes)


class UnfilteredRoIHeads(MaskSkippingRoIHeads):
    """torchvision's heads, but for detections smaller than a hundredth of a pixel, which are kept.

    mmdet suppresses boxes after it has scaled them back to the original image; their overlaps are the same before.
    """

    def postprocess_detections(
        self,
        class_logits: Float[Tensor, "n classes"],
        box_regression: Float[Tensor, "n deltas"],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        counts = [len(boxes) for boxes in proposals]
        decoded = self.box_coder.decode(box_regression, proposals).reshape(sum(counts), class_logits.shape[1], 4)
        found = [
            self._keep(clip_boxes_to_image(boxes, shape), scores)
            for boxes, scores, shape in zip(
                decoded.split(counts), class_logits.softmax(-1).split(counts), image_shapes, strict=True
            )
        ]
        boxes, scores, labels = zip(*found, strict=True)
        return list(boxes), list(scores), list(labels)

    def _keep(
        self, boxes: Float[Tensor, "n classes 4"], scores: Float[Tensor, "n classes"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels (from 1) that are likely enough, suppressed class by class, the best first."""
        rows, classes = torch.nonzero(scores[:, 1:] > self.score_thresh, as_tuple=True)
        labels = classes + 1
        boxes, scores = boxes[rows, labels], scores[rows, labels]
        kept = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return boxes[kept], scores[kept], labels[kept]
