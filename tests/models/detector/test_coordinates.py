"""Boxes that end at an edge, and boxes that end at their last pixel, counted pixel by pixel."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

from gcnet.models.detector.coordinates import EDGES, PIXELS, BoxCoordinates


def random_pixels(count: int, seed: int) -> Tensor:
    """Boxes of whole pixels: first and last column and row, in 23 x 23 pixels."""
    corners = torch.randint(0, 23, (count, 2, 2), generator=torch.Generator().manual_seed(seed)).double()
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def covered(box: Tensor) -> set[tuple[int, int]]:
    left, top, right, bottom = (int(value) for value in box)
    return {(x, y) for x in range(left, right + 1) for y in range(top, bottom + 1)}


def counted_iou(boxes: Tensor, others: Tensor) -> Tensor:
    sets, other_sets = [covered(box) for box in boxes], [covered(box) for box in others]
    return torch.tensor([[len(a & b) / len(a | b) for b in other_sets] for a in sets], dtype=torch.float64)


def test_the_iou_of_pixel_boxes_counts_pixels() -> None:
    boxes, others = random_pixels(17, 0), random_pixels(13, 1)
    torch.testing.assert_close(PIXELS.iou(boxes, others), counted_iou(boxes, others))
    torch.testing.assert_close(EDGES.iou(boxes, others), box_iou(boxes, others), equal_nan=True)
    assert not torch.allclose(EDGES.iou(boxes, others), counted_iou(boxes, others))


@pytest.mark.parametrize(("coordinates", "kept"), [(EDGES, [0, 1]), (PIXELS, [0])])
def test_suppression_uses_the_iou_of_its_coordinates(coordinates: BoxCoordinates, kept: list[int]) -> None:
    """Edges: 4 of 12 units; pixels: 9 of 21, more than 0.4."""
    boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0], [2.0, 0.0, 6.0, 2.0]])
    scores, groups = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    assert coordinates.suppress(boxes, scores, groups, 0.4).tolist() == kept
    assert coordinates.suppress(boxes, scores, torch.tensor([0, 1]), 0.4).tolist() == [0, 1]


def test_suppression_of_pixel_boxes_is_a_greedy_loop_over_counted_pixels() -> None:
    boxes = random_pixels(60, 2)
    scores = torch.rand(60, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    iou, kept = counted_iou(boxes, boxes), []
    for row in scores.argsort(descending=True).tolist():
        if all(iou[row, other] <= 0.3 for other in kept):
            kept.append(row)
    assert PIXELS.suppress(boxes, scores, torch.zeros(60, dtype=torch.int64), 0.3).tolist() == kept
    assert EDGES.suppress(boxes, scores, torch.zeros(60, dtype=torch.int64), 0.3).tolist() != kept


def test_boxes_are_clipped_to_the_last_edge_or_the_last_pixel() -> None:
    boxes = torch.tensor([[-3.0, 2.0, 50.0, 60.0], [45.0, -9.0, 47.0, -1.0]])
    assert torch.equal(EDGES.clip(boxes, (31, 41)), clip_boxes_to_image(boxes, (31, 41)))
    assert PIXELS.clip(boxes, (31, 41)).tolist() == [[0.0, 2.0, 40.0, 30.0], [40.0, 0.0, 40.0, 0.0]]


def test_only_a_box_with_a_width_and_a_height_has_area() -> None:
    tiny = torch.finfo(torch.float32).tiny
    boxes = torch.tensor([[0.0, 0.0, tiny, tiny], [5.0, 0.0, 5.0, 9.0], [5.0, 9.0, 6.0, 9.0], [5.0, 9.0, 4.0, 10.0]])
    assert EDGES.have_area(boxes).tolist() == [True, False, False, False]
    assert PIXELS.have_area(boxes).tolist() == [True, True, True, False]
