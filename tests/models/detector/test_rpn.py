"""Proposals, samples and losses of mmdet's region proposal network, by loops over anchors."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from gcnet.models.detector.conventions import CONVENTIONS
from gcnet.models.detector.heads import ProposalHead
from models.detector.test_matching import looped_matches

STRIDES = (4, 8)


def build(conventions: str, kind: str = "mask_rcnn") -> Any:
    torch.manual_seed(0)
    parts = CONVENTIONS[conventions]
    anchors = parts.anchors((32.0, 64.0), STRIDES)
    return parts.rpn[kind](anchors, ProposalHead(8, 3), box_coder=parts.box_coder((1.0, 1.0, 1.0, 1.0)))


class ByColumn(nn.Module):
    """A head without deltas, whose scores grow from left to right: those in the padding are the highest."""

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores = [torch.arange(features.shape[-1]).expand(len(features), 3, *features.shape[-2:]) for features in maps]
        return [level / 100 for level in scores], [torch.zeros(len(m), 12, *m.shape[-2:]) for m in maps]


@pytest.mark.parametrize("training", [False, True])
def test_anchors_clipped_to_zero_width_take_no_place_among_the_proposals(training: bool) -> None:
    """The image is 128 of 192 pixels wide; anchors in the padding score highest and are clipped to its edge."""
    rpn = build("mmdet", "cascade_mask_rcnn")
    rpn.head = ByColumn()
    rpn.nms_thresh = 1.0
    rpn.train(training)
    images = ImageList(torch.zeros(1, 3, 64, 192), [(64, 128)])
    features = {"0": torch.zeros(1, 8, 16, 48), "1": torch.zeros(1, 8, 8, 24)}
    boxes = {"boxes": torch.tensor([[10.0, 10.0, 40.0, 40.0]])}
    (proposals,), _ = rpn(images, features, [boxes] if training else None)
    widths, heights = (proposals[:, 2:] - proposals[:, :2]).unbind(1)
    assert float(widths.min()) > 0 and float(heights.min()) > 0
    fine, coarse = rpn.anchor_generator(images, list(features.values()))[0][:, 0].split([16 * 48 * 3, 8 * 24 * 3])
    outside = int((fine >= 128).sum())
    assert outside > 300
    best = 2000 if training else 1000
    assert len(proposals) == min(best - outside + int((coarse < 128).sum()), best)


def cells(height: int, width: int, stride: int) -> list[tuple[int, int]]:
    """Top and left of the cells of a map, in pixels."""
    return [(row * stride, column * stride) for row in range(height // stride) for column in range(width // stride)]


def test_anchors_of_cells_in_the_padding_of_the_batch_are_no_candidates() -> None:
    """The image of 70 x 100 pixels is padded to 96 x 128, the batch to 96 x 160."""
    rpn = build("mmdet")
    maps = [torch.zeros(1, 8, 96 // stride, 160 // stride) for stride in STRIDES]
    anchors = rpn.anchor_generator(ImageList(torch.zeros(1, 3, 96, 160), [(70, 100)]), maps)[0]
    valid = [
        top < 96 and left < 128 for stride in STRIDES for top, left in cells(96, 160, stride) for _ratio in range(3)
    ]
    assert rpn.candidates(anchors, (70, 100)).tolist() == valid
    assert 0 < sum(valid) < len(valid)


def test_anchors_of_the_cascade_are_candidates_if_they_lie_inside_the_image() -> None:
    inside = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.9, 19.9]])
    outside = torch.tensor([[-0.1, 0, 9, 9], [0, -0.1, 9, 9], [0, 0, 10, 9], [5, 5, 9, 20]])
    rpn = build("mmdet", "cascade_mask_rcnn")
    assert rpn.candidates(torch.cat([inside, outside]), (20, 10)).tolist() == [True] * 2 + [False] * 4


L1 = "L1"
EXPECTED = {  # L1 or beta of smooth L1, training proposals, whether anchors may cross the border
    ("mmdet", "faster_rcnn"): (L1, 1000, True),
    ("mmdet", "mask_rcnn"): (L1, 1000, True),
    ("mmdet", "cascade_mask_rcnn"): (1 / 9, 2000, False),
    ("mmdet1", "mask_rcnn"): (1 / 9, 2000, False),
    ("mmdet1", "cascade_mask_rcnn"): (1 / 9, 2000, False),
}


def summed(distances: list[float], loss: float | str) -> float:
    """L1, or smooth L1 with a beta."""
    if isinstance(loss, str):
        return sum(distances)
    return sum(d - loss / 2 if d > loss else d * d / 2 / loss for d in distances)


@pytest.mark.parametrize(("conventions", "kind"), EXPECTED)
def test_losses_are_those_of_a_loop_over_the_samples(conventions: str, kind: str) -> None:
    """No image has more than 256 candidates that are not ignored, so that nothing is drawn at random."""
    loss, proposals, crosses_border = EXPECTED[conventions, kind]
    pixel = 1 if conventions == "mmdet1" else 0
    edges = torch.tensor([0.0, 0.0, pixel, pixel])
    rpn = build(conventions, kind).train()
    rpn.fg_bg_sampler.batch_size_per_image = 10**6
    assert rpn.post_nms_top_n() == proposals
    shapes, boxes = [(60, 90), (64, 80)], torch.tensor([[3.0, 4.0, 50.0, 30.0], [40.0, 20.0, 44.0, 24.0]])
    targets = [{"boxes": boxes}, {"boxes": torch.zeros(0, 4)}]
    features = {str(level): torch.randn(2, 8, 64 // s, 96 // s) for level, s in enumerate(STRIDES)}
    images = ImageList(torch.zeros(2, 3, 64, 96), shapes)
    _, losses = rpn(images, features, targets)
    found = {name: loss.item() for name, loss in losses.items()}

    anchors = rpn.anchor_generator(images, list(features.values()))[0].double()
    logits, deltas = rpn.head(list(features.values()))
    objectness, distances, samples, positives = 0.0, [], 0, 0
    for image, (height, width) in enumerate(shapes):
        logit = torch.cat([level[image].permute(1, 2, 0).flatten() for level in logits]).tolist()
        delta = torch.cat([level[image].permute(1, 2, 0).reshape(-1, 4) for level in deltas]).tolist()
        allowed = [
            row
            for row, (left, top, right, bottom) in enumerate(anchors.tolist())
            if crosses_border or (left >= 0 and top >= 0 and right < width and bottom < height)
        ]
        matches = [-1] * len(allowed)
        if len(targets[image]["boxes"]):
            matches = looped_matches(boxes.double() + edges, anchors[allowed] + edges, min_best=0.3)
        count = {True: 0, False: 0}
        for row, match in zip(allowed, matches, strict=True):
            if match == -2:
                continue
            count[match >= 0] += 1
            objectness += math.log1p(math.exp(-logit[row] if match >= 0 else logit[row]))
            if match >= 0:
                (x0, y0, x1, y1), (u0, v0, u1, v1) = anchors[row].tolist(), boxes[match].tolist()
                w, h = x1 - x0 + pixel, y1 - y0 + pixel
                x, y = (u0 + u1 - x0 - x1) / 2 / w, (v0 + v1 - y0 - y1) / 2 / h
                own = (x, y, math.log((u1 - u0 + pixel) / w), math.log((v1 - v0 + pixel) / h))
                distances += [abs(a - b) for a, b in zip(delta[row], own, strict=True)]
        samples += max(count[True], 1) + max(count[False], 1)
        positives += count[True]
    assert positives > 0
    assert found["loss_objectness"] == pytest.approx(objectness / samples, rel=1e-5)
    assert found["loss_rpn_box_reg"] == pytest.approx(summed(distances, loss) / samples, rel=1e-5)
    other = summed(distances, 1.0) / samples
    assert found["loss_rpn_box_reg"] != pytest.approx(other, rel=1e-2), "the loss depends on its constant"


def test_an_image_without_candidates_has_losses_of_zero() -> None:
    rpn = build("mmdet", "cascade_mask_rcnn").train()
    images = ImageList(torch.zeros(1, 3, 32, 32), [(8, 8)])
    features = {str(level): torch.randn(1, 8, 32 // s, 32 // s) for level, s in enumerate(STRIDES)}
    _, losses = rpn(images, features, [{"boxes": torch.tensor([[0.0, 0.0, 8.0, 8.0]])}])
    assert {name: loss.item() for name, loss in losses.items()} == {"loss_objectness": 0, "loss_rpn_box_reg": 0}
