"""Matchers in chunks: torchvision's matcher on the whole matrix, and mmdet's as a loop over objects and boxes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from gcnet.models.create import create_model
from gcnet.models.detector import matching
from gcnet.models.detector.matching import AnchorMatcher, BoxPairs, MaxIoUMatcher


def dense_matches(objects: Tensor, anchors: Tensor) -> Tensor:
    return Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(objects, anchors))


def chunked_matches(objects: Tensor, anchors: Tensor) -> Tensor:
    return AnchorMatcher(high=0.7, low=0.3)(BoxPairs(objects, anchors))


def use_chunks_of(pairs: int, patch: pytest.MonkeyPatch) -> None:
    """Compare at most this number of pairs at a time."""
    patch.setattr(matching, "_MOST_DENSE_PAIRS", pairs)
    patch.setattr(matching, "_CHUNK_PAIRS", pairs)


def boxes(count: int, seed: int, *, step: float = 0.0) -> Tensor:
    """Random boxes in 100 x 100 pixels; with a step their corners are multiples of it, so that overlaps tie."""
    generator = torch.Generator().manual_seed(seed)
    corners = 100 * torch.rand(count, 2, 2, generator=generator)
    if step:
        corners = (corners / step).round() * step
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    objects=st.integers(1, 9),
    anchors=st.integers(1, 60),
    pairs=st.integers(1, 100),
    step=st.sampled_from([0.0, 5.0, 25.0]),
)
def test_matches_are_torchvisions_with_ties_and_boxes_without_area(
    seed: int, objects: int, anchors: int, pairs: int, step: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_chunks_of(pairs, patch)
        given_boxes = boxes(objects, seed, step=step), boxes(anchors, seed + 1, step=step)
        assert torch.equal(chunked_matches(*given_boxes), dense_matches(*given_boxes))


def test_all_three_kinds_of_matches_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    use_chunks_of(1000, monkeypatch)
    anchors = torch.cat([boxes(5000, seed=0), torch.tensor([[200.0, 200.0, 300.0, 300.0]])])
    small = torch.tensor([[250.0, 250.0, 251.0, 251.0]])  # IoU 0.0001 with the last anchor, and 0 with the others
    objects = torch.cat([anchors[:5000:500] + 1, small])
    found = chunked_matches(objects, anchors)
    assert torch.equal(found, dense_matches(objects, anchors))
    assert found[-1] == len(objects) - 1
    assert {-2, -1, 0} <= set(found.tolist())


def test_an_object_that_overlaps_no_anchor_is_matched_as_torchvision_does(monkeypatch: pytest.MonkeyPatch) -> None:
    use_chunks_of(1000, monkeypatch)
    far_away, anchors = torch.tensor([[500.0, 500.0, 520.0, 520.0]]), boxes(5000, seed=0)
    assert torch.equal(chunked_matches(far_away, anchors), dense_matches(far_away, anchors))


@pytest.mark.parametrize(("objects", "anchors"), [(0, 3), (3, 0)])
def test_no_object_or_no_anchor_is_refused_as_torchvision_does(objects: int, anchors: int) -> None:
    with pytest.raises(ValueError, match="No ground-truth boxes" if objects == 0 else "No proposal boxes"):
        chunked_matches(boxes(objects, 0), boxes(anchors, 1))


class Largest(TorchDispatchMode):
    """Elements of the largest tensor computed."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else (found,):
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return found


def test_no_tensor_grows_with_anchors_times_objects() -> None:
    anchors = boxes(100_000, seed=0)
    with Largest() as largest:
        chunked_matches(boxes(100, seed=1), anchors)
    assert largest.elements <= 2 * matching._CHUNK_PAIRS


def test_losses_are_the_same_as_with_torchvisions_matcher(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("mask_rcnn_cifar_resnet20", num_classes=2, detector={"conventions": "torchvision"}).train()
    targets = [
        {
            "boxes": torch.tensor([[4.0, 4.0, 20.0, 30.0], [30.0, 10.0, 60.0, 40.0]]),
            "labels": torch.tensor([1, 2]),
            "masks": torch.ones(2, 64, 64, dtype=torch.uint8),
        },
        {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "masks": torch.zeros(0, 48, 64, dtype=torch.uint8),
        },
    ]
    images = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 48, 64)]
    use_chunks_of(5000, monkeypatch)
    torch.manual_seed(0)
    found = model(images, targets)
    model.rpn.box_similarity = box_iou
    model.rpn.proposal_matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    torch.manual_seed(0)
    expected = model(images, targets)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def looped_matches(objects: Tensor, boxes: Tensor, *, min_best: float) -> list[int]:
    """mmdet's `MaxIoUAssigner` in its four steps, on Python floats."""
    overlaps = box_iou(objects, boxes).tolist()
    matches = []
    for box in range(len(boxes)):
        column = [row[box] for row in overlaps]
        best = max(column)
        matches.append(column.index(best) if best >= 0.7 else -1 if best < 0.3 else -2)
    for number, row in enumerate(overlaps):
        if max(row) >= min_best:
            for box, overlap in enumerate(row):
                if overlap == max(row):
                    matches[box] = number
    return matches


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    objects=st.integers(1, 9),
    count=st.integers(1, 60),
    pairs=st.integers(1, 100),
    step=st.sampled_from([0.0, 5.0, 25.0]),
    min_best=st.sampled_from([0.0, 0.3, 0.7, 2.0]),
)
def test_matches_of_mmdet_are_those_of_a_loop(
    seed: int, objects: int, count: int, pairs: int, step: float, min_best: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_chunks_of(pairs, patch)
        pairs_of_boxes = BoxPairs(boxes(objects, seed, step=step) + torch.tensor([0, 0, 1, 1]), boxes(count, seed + 1))
        found = MaxIoUMatcher(0.7, 0.3, min_best=min_best, iou=box_iou)(pairs_of_boxes)
        assert found.tolist() == looped_matches(*pairs_of_boxes, min_best=min_best)


def test_the_best_box_of_an_object_is_matched_with_it_if_their_iou_is_at_least_min_best() -> None:
    """The first box overlaps object 0 more, but is the best one of object 1; object 2 has a best IoU of 0.25."""
    objects = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 16.0], [50.0, 0.0, 60.0, 10.0]])
    candidates = torch.tensor([[0.0, 0.0, 10.0, 12.0], [0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 55.0, 5.0]])
    found = {
        min_best: MaxIoUMatcher(0.7, 0.3, min_best=min_best, iou=box_iou)(BoxPairs(objects, candidates)).tolist()
        for min_best in (0.2, 0.3, 2.0)
    }
    assert found == {0.2: [1, 0, 2], 0.3: [1, 0, -1], 2.0: [0, 0, -1]}
    assert chunked_matches(objects, candidates).tolist() == [0, 0, 2], "torchvision: the object of the highest IoU"


def test_without_objects_every_box_is_background() -> None:
    matcher = MaxIoUMatcher(0.7, 0.3, min_best=0.3, iou=box_iou)
    assert matcher(BoxPairs(torch.zeros(0, 4), boxes(3, 0))).tolist() == [-1, -1, -1]
    assert matcher(BoxPairs(boxes(3, 0), torch.zeros(0, 4))).tolist() == []
