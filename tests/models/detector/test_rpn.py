"""Proposals of mmdet's region proposal network."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork

from gcnet.models.detector.conventions import CONVENTIONS
from gcnet.models.detector.heads import ProposalHead


def build(conventions: str) -> RegionProposalNetwork:
    torch.manual_seed(0)
    parts = CONVENTIONS[conventions]
    anchors = parts.anchors((32.0, 64.0), (4, 8))
    return parts.rpn(anchors, ProposalHead(8, 3), box_coder=parts.box_coder((1.0, 1.0, 1.0, 1.0)))


class ByColumn(nn.Module):
    """A head without deltas, whose scores grow from left to right: those in the padding are the highest."""

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores = [torch.arange(features.shape[-1]).expand(len(features), 3, *features.shape[-2:]) for features in maps]
        return [level / 100 for level in scores], [torch.zeros(len(m), 12, *m.shape[-2:]) for m in maps]


@pytest.mark.parametrize("training", [False, True])
def test_anchors_clipped_to_zero_width_take_no_place_among_the_proposals(training: bool) -> None:
    """The image is 128 of 192 pixels wide; anchors in the padding score highest and are clipped to its edge."""
    rpn = build("mmdet")
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
