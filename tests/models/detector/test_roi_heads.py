"""Samples and losses of RoI heads, and their detections."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import batched_nms, box_iou

from gcnet.models.create import create_model
from gcnet.models.detector import losses as losses_module
from gcnet.models.detector.conventions import CONVENTIONS
from gcnet.models.detector.coordinates import PIXELS
from gcnet.models.detector.heads import HeadSpec, build_heads
from gcnet.models.detector.transform import ScaledShape

SIDE = 64


def build(name: str = "mask_rcnn_scenes_resnet", **detector: Any) -> nn.Module:
    torch.manual_seed(2)
    options = {"image_size": (SIDE, SIDE), "rois_per_image": 32, **detector}
    return create_model(name, num_classes=3, detector=options).train()


def target(count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    corners = torch.randint(0, SIDE - 24, (count, 2), generator=generator)
    masks = torch.zeros(count, SIDE, SIDE, dtype=torch.uint8)
    for mask, (left, top) in zip(masks, corners.tolist(), strict=True):
        mask[top : top + 17, left + 3 : left + 20] = 1
    boxes = torch.cat([corners, corners + 20], dim=1).float()
    return {"boxes": boxes, "labels": torch.arange(count) % 3 + 1, "masks": masks}


def packed(masks: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(masks.numpy(), axis=-1))


def losses(model: nn.Module, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return model([torch.rand(3, SIDE, SIDE) for _ in targets], targets)


@pytest.mark.parametrize("count", [3, 40])
def test_losses_are_torchvisions_where_all_objects_have_masks(count: int) -> None:
    model = build(conventions="torchvision")
    plain = copy.deepcopy(model)
    plain.roi_heads.forward = RoIHeads.forward.__get__(plain.roi_heads)
    targets = [target(count), target(1)]
    ours, reference = losses(model, targets), losses(plain, targets)
    assert ours.keys() == reference.keys()
    for name, value in reference.items():
        assert torch.equal(ours[name], value), name
    marked = [{**one, "has_mask": torch.ones(len(one["labels"]), dtype=torch.bool)} for one in targets]
    assert torch.equal(losses(model, marked)["loss_mask"], reference["loss_mask"])


@pytest.mark.parametrize("name", ["mask_rcnn_scenes_resnet", "cascade_mask_rcnn_scenes_resnet"])
def test_the_placeholder_of_a_missing_mask_has_no_effect(name: str) -> None:
    model = build(name=name)
    has_mask = torch.tensor([True, False, True])
    first = {**target(3), "has_mask": has_mask}
    second = {**first, "masks": first["masks"].clone()}
    second["masks"][1] = 1
    for key, value in losses(model, [first]).items():
        assert torch.equal(losses(model, [second])[key], value), key
    everything = losses(model, [{**first, "has_mask": torch.ones(3, dtype=torch.bool)}])
    stage = "stage0." if name.startswith("cascade") else ""
    assert torch.equal(everything[f"{stage}loss_box_reg"], losses(model, [first])[f"{stage}loss_box_reg"])
    assert not torch.equal(everything[f"{stage}loss_mask"], losses(model, [first])[f"{stage}loss_mask"])


@pytest.mark.parametrize("box_head", ["2fc", "4conv1fc"])
def test_a_batch_without_masks_trains_boxes_and_leaves_finite_statistics(box_head: str) -> None:
    model = build(box_head=box_head)
    found = losses(model, [{**target(2), "has_mask": torch.zeros(2, dtype=torch.bool)}])
    assert float(found["loss_mask"].detach()) == 0
    assert float(found["loss_box_reg"].detach()) > 0
    sum(found.values()).backward()
    assert all(parameter.grad is not None for parameter in model.roi_heads.mask_head.parameters())
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


def test_target_masks_do_not_depend_on_how_many_are_converted_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    together = losses(model, [target(40)])["loss_mask"]
    monkeypatch.setattr(losses_module, "_MASK_CHUNK", 7)
    assert torch.equal(losses(model, [target(40)])["loss_mask"], together)


def build_stage(conventions: str, kind: str, iou: float = 0.5) -> Any:
    torch.manual_seed(4)
    spec = HeadSpec(4, fpn_channels=8, head_width=8, rois_per_image=10**6, strides=(4, 8), batch_norm=False)
    return build_heads(CONVENTIONS[conventions], spec, kind=kind, iou_threshold=iou)


def jittered(boxes: Tensor, count: int) -> Tensor:
    """Proposals around boxes, within 100 x 100 pixels."""
    generator = torch.Generator().manual_seed(5)
    noise = 6 * torch.randn(count, len(boxes), 4, generator=generator)
    moved = (boxes + noise).reshape(-1, 2, 2)
    return torch.cat([moved.amin(1), moved.amax(1)], dim=1).clamp(0, 100)


OBJECTS = torch.tensor([[10.0, 10.0, 40.0, 50.0], [12.0, 11.0, 42.0, 53.0], [60.0, 5.0, 70.0, 99.0]])


MIN_BEST = {("mmdet", "faster_rcnn"): 2.0, ("mmdet", "mask_rcnn"): 0.5, ("mmdet", "cascade_mask_rcnn"): 2.0}


@pytest.mark.parametrize(("conventions", "kind"), MIN_BEST)
def test_rois_are_matched_by_a_loop_and_ground_truth_with_its_own_object(conventions: str, kind: str) -> None:
    proposals = jittered(OBJECTS, 30)
    targets = [{"boxes": OBJECTS, "labels": torch.tensor([3, 1, 2]), "masks": torch.zeros(3, 100, 100)}]
    rois, matches, labels, box_targets = build_stage(conventions, kind).select_training_samples([proposals], targets)
    expected = []
    overlaps = box_iou(OBJECTS, proposals).tolist()
    for box in range(len(proposals)):
        column = [row[box] for row in overlaps]
        expected.append(column.index(max(column)) if max(column) >= 0.5 else -1)
    for number, row in enumerate(overlaps):
        if max(row) >= MIN_BEST[conventions, kind]:
            expected[row.index(max(row))] = number
    expected = [0, 1, 2, *expected]
    assert torch.equal(rois[0], torch.cat([OBJECTS, proposals]))
    assert labels[0].tolist() == [(3, 1, 2)[match] if match >= 0 else 0 for match in expected]
    assert [m for m, e in zip(matches[0].tolist(), expected, strict=True) if e >= 0] == [e for e in expected if e >= 0]
    for roi, match, target in zip(rois[0].tolist(), expected, box_targets[0].tolist(), strict=True):
        if match >= 0:
            x0, y0, x1, y1 = roi
            u0, v0, u1, v1 = OBJECTS[match].tolist()
            w, h = x1 - x0, y1 - y0
            own = [(u0 + u1 - x0 - x1) / 2 / w * 10, (v0 + v1 - y0 - y1) / 2 / h * 10]
            own += [math.log((u1 - u0) / w) * 5, math.log((v1 - v0) / h) * 5]
            assert target == pytest.approx(own, abs=1e-4)
    assert {-1, 0, 1, 2} <= set(expected)


def test_boxes_scaled_back_first_are_suppressed_alike() -> None:
    """mmdet suppresses in the original image, here it is done before: overlaps do not depend on the scale."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(300, 2, generator=generator) * 90
    boxes = torch.cat([corners, corners + 3 + 40 * torch.rand(300, 2, generator=generator)], dim=1)
    scores, labels = torch.rand(300, generator=generator), torch.randint(3, (300,), generator=generator)
    scale = torch.tensor([1.667, 1.664, 1.667, 1.664])
    assert torch.equal(batched_nms(boxes, scores, labels, 0.5), batched_nms(boxes / scale, scores, labels, 0.5))


@pytest.mark.parametrize(("scale", "count"), [(1.0, 2), (4.0, 1)])
def test_detections_are_suppressed_by_their_pixels_in_the_original_image(scale: float, count: int) -> None:
    """Unscaled, 9 pixels wide with 6 in common, IoU 6 / 12; divided by 4, 3 wide with 2.25 in common, 2.25 / 3.75."""
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [3.0, 0.0, 11.0, 8.0]])
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.2, 0.8, 0.0]])
    stage = build_stage("mmdet1", "mask_rcnn")
    stage.nms_thresh = 0.55
    kept, _, _ = stage._suppress(boxes[:, None].expand(-1, 3, 4), scores, ScaledShape((16, 16), scale))
    assert len(kept) == count


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "cascade_mask_rcnn"])
def test_overlaps_and_borders_of_proposals_and_rois_are_those_of_pixels(kind: str) -> None:
    rpn, stage = (getattr(CONVENTIONS["mmdet1"], part)[kind].keywords for part in ("rpn", "roi_heads"))
    assert rpn["coordinates"] is stage["coordinates"] is PIXELS


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["faster_rcnn", "mask_rcnn", "cascade_mask_rcnn"])
def test_a_detector_trains_every_parameter_and_predicts_boxes_inside_images(detector: str) -> None:
    torch.manual_seed(0)
    model = create_model(f"{detector}_scenes_resnet", num_classes=3, detector={"conventions": "mmdet1"}).train()
    images = [torch.rand(3, 64, 64), torch.rand(3, 48, 60)]
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 10:30, 10:40] = 1
    targets = [
        {"boxes": torch.tensor([[10.0, 10.0, 40.0, 30.0]]), "labels": torch.tensor([2]), "masks": masks},
        {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "masks": torch.zeros(0, 48, 60, dtype=torch.uint8),
        },
    ]
    losses = model(images, targets)
    assert all(bool(loss.isfinite()) for loss in losses.values())
    sum(losses.values()).backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    model.eval()
    for stage in getattr(model.roi_heads, "stages", [model.roi_heads]):
        stage.score_thresh = 0.0
    with torch.no_grad():
        for image, found in zip(images, model(images), strict=True):
            height, width = image.shape[1:]
            assert len(found["boxes"]) > 0
            assert (found["boxes"] >= 0).all()
            # Sides are rounded to pixels and boxes are not: the last pixel may end half a pixel later.
            assert (found["boxes"][:, 2] <= width + 0.5).all() and (found["boxes"][:, 3] <= height + 0.5).all()
            assert "masks" not in found or found["masks"].shape[-2:] == (height, width)
