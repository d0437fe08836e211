"""Matches of anchors compared in parts, judged by torchvision's matcher on the whole matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from gcnet.models.create import create_model
from gcnet.models.detector import anchors as anchors_module
from gcnet.models.detector.anchors import AnchorMatcher, BoxPairs


def whole(objects: Tensor, anchors: Tensor) -> Tensor:
    return Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(objects, anchors))


def parts(objects: Tensor, anchors: Tensor) -> Tensor:
    return AnchorMatcher(high=0.7, low=0.3)(BoxPairs(objects, anchors))


def in_parts_of(pairs: int, patch: pytest.MonkeyPatch) -> None:
    """Have everything with more pairs than this compared in parts."""
    patch.setattr(anchors_module, "_MOST_DENSE_PAIRS", pairs)
    patch.setattr(anchors_module, "_CHUNK_PAIRS", pairs)


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
        in_parts_of(pairs, patch)
        given_boxes = boxes(objects, seed, step=step), boxes(anchors, seed + 1, step=step)
        assert torch.equal(parts(*given_boxes), whole(*given_boxes))


def test_all_three_kinds_of_matches_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts_of(1000, monkeypatch)
    anchors = torch.cat([boxes(5000, seed=0), torch.tensor([[200.0, 200.0, 300.0, 300.0]])])
    small = torch.tensor([[250.0, 250.0, 251.0, 251.0]])  # IoU 0.0001 with the last anchor, and 0 with the others
    objects = torch.cat([anchors[:5000:500] + 1, small])
    found = parts(objects, anchors)
    assert torch.equal(found, whole(objects, anchors))
    assert found[-1] == len(objects) - 1
    assert {-2, -1, 0} <= set(found.tolist())


def test_an_object_that_overlaps_no_anchor_is_matched_as_torchvision_does(monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts_of(1000, monkeypatch)
    far_away, anchors = torch.tensor([[500.0, 500.0, 520.0, 520.0]]), boxes(5000, seed=0)
    assert torch.equal(parts(far_away, anchors), whole(far_away, anchors))


@pytest.mark.parametrize(("objects", "anchors"), [(0, 3), (3, 0)])
def test_no_object_or_no_anchor_is_refused_as_torchvision_does(objects: int, anchors: int) -> None:
    with pytest.raises(ValueError, match="No ground-truth boxes" if objects == 0 else "No proposal boxes"):
        parts(boxes(objects, 0), boxes(anchors, 1))


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
        parts(boxes(100, seed=1), anchors)
    assert largest.elements <= 2 * anchors_module._CHUNK_PAIRS


@pytest.mark.parametrize("conventions", ["torchvision", "mmdet"])
def test_losses_with_parts_are_those_of_torchvisions_matcher(conventions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("mask_rcnn_cifar_resnet20", num_classes=2, detector={"conventions": conventions}).train()
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
    in_parts_of(5000, monkeypatch)
    torch.manual_seed(0)
    found = model(images, targets)
    model.rpn.box_similarity = box_iou
    model.rpn.proposal_matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    torch.manual_seed(0)
    expected = model(images, targets)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
