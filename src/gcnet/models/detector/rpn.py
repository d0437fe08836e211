"""Region proposal networks (arXiv 1506.01497) of each implementation."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork

from gcnet.models.detector.anchors import AnchorMatcher, BoxPairs
from gcnet.models.detector.coordinates import BoxCoordinates

_HIGH, _LOW = 0.7, 0.3  # IoU of positive anchors and of background


class MatchingRPN(RegionProposalNetwork):
    """torchvision's `RegionProposalNetwork` with the usual sizes, whose anchors are matched in bounded memory.

    Args:
        anchor_generator: anchors of every image.
        head: objectness and box deltas of every anchor.
        box_coder: of the deltas.
    """

    def __init__(self, anchor_generator: AnchorGenerator, head: nn.Module, *, box_coder: BoxCoder) -> None:
        super().__init__(
            anchor_generator,
            head,
            fg_iou_thresh=_HIGH,
            bg_iou_thresh=_LOW,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2000, "testing": 1000},
            post_nms_top_n={"training": 2000, "testing": 1000},
            nms_thresh=0.7,
        )
        parts: Any = self
        parts.box_similarity = BoxPairs
        parts.proposal_matcher = AnchorMatcher(high=_HIGH, low=_LOW)
        parts.box_coder = box_coder


class MMDetRPN(MatchingRPN):
    """Region proposal network of mmdet: proposals without a width or height are removed, however small the others.

    torchvision removes proposals with a side below 0.001 pixels.

    Args:
        anchor_generator: anchors of every image.
        head: objectness and box deltas of every anchor.
        box_coder: of the deltas.
        coordinates: meaning of the coordinates of boxes.
    """

    def __init__(
        self, anchor_generator: AnchorGenerator, head: nn.Module, *, box_coder: BoxCoder, coordinates: BoxCoordinates
    ) -> None:
        super().__init__(anchor_generator, head, box_coder=box_coder)
        self.coordinates = coordinates

    def filter_proposals(
        self,
        proposals: Float[Tensor, "n a 4"],
        objectness: Float[Tensor, "_ 1"],
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Select proposals by score per level, area, non-maximum suppression per level and score per image.

        Args:
            proposals: decoded boxes of all anchors of each image.
            objectness: logits, image by image.
            image_shapes: height and width of each image.
            num_anchors_per_level: anchors of each level.

        Returns:
            Proposals (P, 4) and scores (P,) of each image, by descending score.
        """
        logits = objectness.detach().reshape(len(proposals), -1)
        levels = torch.cat(
            [torch.full((count,), i, device=logits.device) for i, count in enumerate(num_anchors_per_level)]
        )
        best = self._get_top_n_idx(logits, num_anchors_per_level)
        chosen = [
            self._suppress(self.coordinates.clip(boxes[rows], shape), scores[rows].sigmoid(), levels[rows])
            for boxes, scores, rows, shape in zip(proposals, logits, best, image_shapes, strict=True)
        ]
        return [boxes for boxes, _ in chosen], [scores for _, scores in chosen]

    def _suppress(
        self, boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], levels: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "p 4"], Float[Tensor, " p"]]:
        rows = torch.where(self.coordinates.have_area(boxes))[0]
        kept = self.coordinates.suppress(boxes[rows], scores[rows], levels[rows], self.nms_thresh)
        rows = rows[kept[: self.post_nms_top_n()]]
        return boxes[rows], scores[rows]
