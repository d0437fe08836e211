"""Anchors and box coders of a detector."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, clip_boxes_to_image

from gcnet.models.detector.mask_loss import MaskSkippingRoIHeads

_CPU = torch.device("cpu")


class RoundedAnchors(AnchorGenerator):
    """torchvision's, which are float32 at least: in bfloat16 a corner at 800 pixels would be off by up to two."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        precise = [feature_map.new_zeros((), dtype=_precise(feature_map)) for feature_map in feature_maps]
        shaped = [zero.expand(like.shape) for zero, like in zip(precise, feature_maps, strict=True)]
        return super().forward(image_list, shaped)


class FixedStrideAnchors(AnchorGenerator):
    """Anchors as mmdet 2 and 3 have them: exact sides, centred on cell index times the level's stride.

    torchvision's generator rounds the corners of each anchor to whole pixels, and takes for a stride the padded image
    over the map, rounded down: 61 instead of 64 for the coarsest level of an image of 800 pixels.

    Args:
        sizes: of each level: sides in pixels of its square anchors.
        aspect_ratios: of each level: height over width.
        strides: of each level: pixels from one cell to the next.
    """

    def __init__(
        self,
        sizes: tuple[tuple[float, ...], ...],
        aspect_ratios: tuple[tuple[float, ...], ...],
        strides: tuple[int, ...],
    ) -> None:
        super().__init__(sizes, aspect_ratios)
        self.strides = strides

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = _CPU,
    ) -> Tensor:
        """One level's anchors around (0, 0): (ratios x scales, 4) corners, ratio by ratio."""
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        roots = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        widths = (sides[None, :] / roots[:, None]).flatten()
        heights = (sides[None, :] * roots[:, None]).flatten()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        first = feature_maps[0]
        self.set_cell_anchors(_precise(first), first.device)
        steps = [[torch.tensor(stride, device=first.device)] * 2 for stride in self.strides]
        levels = self.grid_anchors([list(feature_map.shape[-2:]) for feature_map in feature_maps], steps)
        return [torch.cat(levels)] * len(image_list.image_sizes)


def _precise(feature_map: Tensor) -> torch.dtype:
    return torch.promote_types(feature_map.dtype, torch.float32)


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
