"""Non-maximum suppression of groups, against a loop over groups."""

import torch
from torchvision.ops import nms

from gcnet.ops.group_suppression import suppress_groups


def test_each_group_is_suppressed_by_itself_and_negative_scores_are_ignored() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(5, 31, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 20 * torch.rand(5, 31, 2, generator=generator)], dim=2)
    scores = torch.rand(5, 31, generator=generator)
    scores[:, ::7], scores[4] = -1.0, -1.0
    expected = torch.zeros(5, 31, dtype=torch.bool)
    for group in range(5):
        rows = torch.nonzero(scores[group] >= 0)[:, 0]
        expected[group, rows[nms(boxes[group, rows], scores[group, rows], 0.3)]] = True
    assert expected.sum() < (scores >= 0).sum()
    assert torch.equal(suppress_groups(boxes, scores, 0.3), expected)


def test_no_box_at_all_is_no_error() -> None:
    assert not suppress_groups(torch.zeros(2, 3, 4), torch.full((2, 3), -1.0), 0.5).any()
