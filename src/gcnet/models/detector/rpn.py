"""Region proposal networks (arXiv 1506.01497) of each implementation."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers

from gcnet.models.detector.coordinates import EDGES, BoxCoordinates
from gcnet.models.detector.losses import BoxLoss
from gcnet.models.detector.matching import AnchorMatcher, BoxPairs, MaxIoUMatcher

_HIGH, _LOW = 0.7, 0.3  # IoU of positive anchors and of background


class MatchingRPN(RegionProposalNetwork):
    """torchvision's `RegionProposalNetwork` with the usual sizes, whose anchors are matched in bounded memory.

    Args:
        anchor_generator: anchors of every image.
        head: objectness and box deltas of every anchor.
        box_coder: of the deltas.
        proposals: most proposals of an image in training; in evaluation 1000.
    """

    coordinates = EDGES

    def __init__(
        self, anchor_generator: AnchorGenerator, head: nn.Module, *, box_coder: BoxCoder, proposals: int = 2000
    ) -> None:
        super().__init__(
            anchor_generator,
            head,
            fg_iou_thresh=_HIGH,
            bg_iou_thresh=_LOW,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2000, "testing": 1000},
            post_nms_top_n={"training": proposals, "testing": 1000},
            nms_thresh=0.7,
        )
        parts: Any = self
        parts.box_similarity = BoxPairs
        parts.proposal_matcher = AnchorMatcher(high=_HIGH, low=_LOW)
        parts.box_coder = box_coder

    def large_enough(self, boxes: Float[Tensor, "*n 4"]) -> Bool[Tensor, "*n"]:
        """Return which clipped boxes are large enough to be proposals."""
        return (boxes[..., 2:] - boxes[..., :2] >= self.min_size).all(dim=-1)


class MMDetRPN(MatchingRPN):
    """Region proposal network of mmdet.

    It differs from torchvision's in the proposals, of which only those without a width or height are removed, and in
    samples and losses. The losses are divided by the number of samples, where an image without positive samples, or
    without negative ones, counts as having one.

    Args:
        anchor_generator: anchors of every image.
        head: objectness and box deltas of every anchor.
        box_coder: of the deltas.
        coordinates: meaning of the coordinates of boxes.
        proposals: most proposals of an image in training.
        candidates: anchors (A, 4) of an image, and its height and width -> mask (A,), bool, of the anchors that may be
            sampled.
        min_best: smallest highest IoU of an object whose best anchors are matched with it (see `MaxIoUMatcher`).
        box_loss: loss of box deltas, summed.
    """

    def __init__(
        self,
        anchor_generator: AnchorGenerator,
        head: nn.Module,
        *,
        box_coder: BoxCoder,
        coordinates: BoxCoordinates,
        proposals: int,
        candidates: Callable[[Tensor, tuple[int, int]], Tensor],
        min_best: float,
        box_loss: BoxLoss,
    ) -> None:
        super().__init__(anchor_generator, head, box_coder=box_coder, proposals=proposals)
        self.coordinates = coordinates
        self.candidates = candidates
        self.matcher = MaxIoUMatcher(_HIGH, _LOW, min_best=min_best, iou=coordinates.iou)
        self.box_loss = box_loss

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose boxes, and compute the losses in training mode.

        Args:
            images: batch, with the height and width of each image.
            features: feature maps (N, C, H, W) by level name, the finest first.
            targets: in training mode, `boxes` (K, 4) of each image, in pixels.

        Returns:
            Proposals of each image (P, 4), and scalar losses by name (empty in evaluation mode).
        """
        maps = list(features.values())
        logits, deltas = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        counts = [level[0].numel() for level in logits]
        objectness, deltas = concat_box_prediction_layers(logits, deltas)
        decoded = self.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
        proposals, _ = self.filter_proposals(decoded, objectness, images.image_sizes, counts)
        if not self.training:
            return proposals, {}
        assert targets is not None
        objects = [target["boxes"].to(anchors[0].dtype) for target in targets]
        matches = [self.match(*row) for row in zip(anchors, objects, images.image_sizes, strict=True)]
        return proposals, self._losses(objectness.flatten(), deltas, anchors, objects, matches)

    def large_enough(self, boxes: Float[Tensor, "*n 4"]) -> Bool[Tensor, "*n"]:
        return self.coordinates.have_area(boxes)

    def match(
        self, anchors: Float[Tensor, "a 4"], objects: Float[Tensor, "k 4"], shape: tuple[int, int]
    ) -> Int[Tensor, " a"]:
        """Match the anchors of an image with its objects.

        Args:
            anchors: of all levels, in pixels.
            objects: ground-truth boxes in pixels.
            shape: height and width of the image.

        Returns:
            Index of the object of each anchor; -1 for background, -2 for anchors that are not used.
        """
        matches = torch.full((len(anchors),), MaxIoUMatcher.BETWEEN_THRESHOLDS, device=anchors.device)
        rows = torch.where(self.candidates(anchors, shape))[0]
        matches[rows] = self.matcher(BoxPairs(objects, anchors[rows]))
        return matches

    def _losses(
        self,
        objectness: Float[Tensor, " n"],
        deltas: Float[Tensor, "n 4"],
        anchors: list[Tensor],
        objects: list[Tensor],
        matches: list[Tensor],
    ) -> dict[str, Tensor]:
        """Objectness and box losses of the sampled anchors of all images."""
        background = MaxIoUMatcher.BELOW_LOW_THRESHOLD
        positive, negative = self.fg_bg_sampler(
            [torch.where(found >= 0, 1, torch.where(found == background, 0, -1)) for found in matches]
        )
        count = sum(max(int(chosen.sum()), 1) for chosen in (*positive, *negative))
        rows = [torch.where(chosen)[0] for chosen in positive]
        targets = [
            self.box_coder.encode_single(boxes[found[chosen]], boxes_of_anchors[chosen])
            for boxes, found, boxes_of_anchors, chosen in zip(objects, matches, anchors, rows, strict=True)
        ]
        positives = torch.where(torch.cat(positive))[0]
        samples = torch.cat([positives, torch.where(torch.cat(negative))[0]])
        labels = torch.zeros_like(objectness[samples])
        labels[: len(positives)] = 1
        loss = F.binary_cross_entropy_with_logits(objectness[samples], labels, reduction="sum")
        box_loss = self.box_loss(deltas[positives], torch.cat(targets))
        return {"loss_objectness": loss / count, "loss_rpn_box_reg": box_loss / count}

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
        rows = torch.where(self.large_enough(boxes))[0]
        kept = self.coordinates.suppress(boxes[rows], scores[rows], levels[rows], self.nms_thresh)
        rows = rows[kept[: self.post_nms_top_n()]]
        return boxes[rows], scores[rows]


_MULTIPLE = 32  # sides of a padded image are multiples of it


def inside_own_padding(anchors: Float[Tensor, "a 4"], shape: tuple[int, int]) -> Bool[Tensor, " a"]:
    """Return which anchors are centered in an image padded to multiples of 32 pixels; the batch may be larger.

    Args:
        anchors: left, top, right, bottom in pixels.
        shape: height and width of the image in pixels.
    """
    height, width = (-(-side // _MULTIPLE) * _MULTIPLE for side in shape)
    x, y = ((anchors[:, :2] + anchors[:, 2:]) / 2).unbind(1)
    return (x < width - 0.5) & (y < height - 0.5)  # centers are whole pixels, up to rounding


def inside_image(anchors: Float[Tensor, "a 4"], shape: tuple[int, int]) -> Bool[Tensor, " a"]:
    """Return which anchors lie wholly inside an image, as with `allowed_border=0` of mmdet.

    Args:
        anchors: left, top, right, bottom in pixels.
        shape: height and width of the image in pixels.
    """
    limits = anchors.new_tensor([shape[1], shape[0]])
    return (anchors[:, :2] >= 0).all(dim=1) & (anchors[:, 2:] < limits).all(dim=1)
