"""The cascade: boxes refined stage by stage, scores and masks averaged, losses of every stage."""

import pytest
import torch
from torch import nn

from gcnet.models.detector.cascade import CascadeRoIHeads, _is_among, _refine
from gcnet.models.detector.mask_rcnn import build_mask_rcnn
from gcnet.models.registry import build_base_model
from models.detector.test_mask_rcnn import SMALL, calibrated, detector, photographs, targets


def cascade(**options: object) -> nn.Module:
    return detector(cascade=True, **options)


def test_heads_are_three_and_regress_without_regard_to_class() -> None:
    plain, model = detector(), cascade()
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in (("one", plain), ("three", model))}
    one_head = sum(parameter.numel() for parameter in plain.roi_heads.parameters())
    by_class, without = 1025 * 4 * 7, 1025 * 4  # six classes and the background
    assert count["three"] == count["one"] + 2 * one_head - 3 * (by_class - without)


def test_overlaps_and_deviations_are_those_of_the_paper() -> None:
    stages = cascade().roi_heads.stages
    assert [stage.proposal_matcher.high_threshold for stage in stages] == [0.5, 0.6, 0.7]
    for stage, (place, size) in zip(stages, ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067)), strict=True):
        assert stage.box_coder.weights == pytest.approx((1 / place, 1 / place, 1 / size, 1 / size))


def test_a_stage_moves_the_boxes_of_the_one_before_by_its_deltas_within_the_image() -> None:
    stage = cascade().roi_heads.stages[1]
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 8.0, 4.0]])
    deltas = torch.tensor([[2.0, 0.0, 0.0, 0.0], [-40.0, 0.0, 0.0, 0.0]])  # 0.05 of the width each: a tenth, twice it
    (found,) = _refine(stage, deltas, [boxes], [(70, 90)])
    torch.testing.assert_close(found, torch.tensor([[12.0, 20.0, 32.0, 60.0], [0.0, 0.0, 0.0, 4.0]]))


def test_boxes_of_objects_are_distinguished_from_others() -> None:
    boxes = torch.tensor([[1.0, 2, 3, 4], [1.0, 2, 3, 5]])
    assert _is_among(boxes, boxes[1:]).tolist() == [False, True]
    assert _is_among(boxes, torch.zeros(0, 4)).tolist() == [False, False]


@pytest.mark.slow
def test_three_equal_stages_without_deltas_are_one() -> None:
    """With deltas of zero every stage sees the same regions, and a mean of three equal things is one of them."""
    single, triple = detector(), cascade()
    state = calibrated(single).state_dict()
    for key in [key for key in state if "bbox_pred" in key and key.startswith("roi_heads")]:
        state[key].zero_()
    own = {}
    for key, value in state.items():
        if key.startswith("roi_heads."):
            shared = value[:4] if "bbox_pred" in key else value
            own |= {key.replace("roi_heads.", f"roi_heads.stages.{number}."): shared for number in range(3)}
        else:
            own[key] = value
    single.load_state_dict(state)
    triple.load_state_dict(own)
    with torch.no_grad():
        expected, found = single.eval()(photographs()), triple.eval()(photographs())
    assert isinstance(triple.roi_heads, CascadeRoIHeads)
    for one, other in zip(expected, found, strict=True):
        assert len(one["labels"]) > 0
        for name in one:
            torch.testing.assert_close(other[name], one[name], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("conventions", ["mmdet", "torchvision"])
def test_every_stage_has_losses_that_reach_every_parameter(conventions: str) -> None:
    model = cascade(conventions=conventions)
    losses = model(photographs(), targets())
    each = {"loss_classifier", "loss_box_reg", "loss_mask"}
    rest = {"loss_objectness", "loss_rpn_box_reg"}
    assert set(losses) == {f"stage{number}.{name}" for number in range(3) for name in each} | rest
    sum(losses.values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    with torch.no_grad():
        for found in calibrated(model)(photographs()):
            assert found["masks"].shape[0] == len(found["scores"]) > 0


def test_an_image_in_which_nothing_is_proposed_has_no_detections() -> None:
    model = build_mask_rcnn(build_base_model("resnet18", 1), num_classes=2, cascade=True, image_size=SMALL).eval()
    nothing = [torch.zeros(0, 4)]
    features = {name: torch.zeros(1, 256, 8, 8) for name in "0123"}
    with torch.no_grad():
        ((found,), losses) = model.roi_heads(features, nothing, [(64, 64)])
    assert losses == {}
    assert (found["boxes"].shape, found["masks"].shape) == ((0, 4), (0, 1, 28, 28))
