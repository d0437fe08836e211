"""Samples, losses and mask targets of RoI heads: torchvision's own, and mmdet's by loops."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import box_iou

from gcnet.models.create import create_model
from gcnet.models.detector import losses as losses_module
from gcnet.models.detector.conventions import CONVENTIONS
from gcnet.models.detector.heads import HeadSpec, build_heads
from gcnet.models.detector.losses import box_losses
from gcnet.models.detector.transform import PackedMasksTransform, RoundedTransform, resize_masks
from models.detector.test_parts import pooled_by_loop

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


@pytest.mark.parametrize(
    ("old", "new"), [((31, 41), (17, 23)), ((31, 41), (97, 101)), ((1, 1), (5, 3)), ((13, 8), (13, 8))]
)
def test_masks_are_resized_as_interpolate_does_packed_or_not(old: tuple[int, int], new: tuple[int, int]) -> None:
    masks = torch.randint(0, 2, (3, *old), dtype=torch.uint8)
    expected = F.interpolate(masks[:, None].float(), new)[:, 0].byte()
    for name, value in (("masks", masks), ("mask_bits", packed(masks))):
        found = {"boxes": torch.zeros(3, 4), name: value}
        resize_masks(found, old, new)
        assert torch.equal(found["masks"], expected)
        assert "mask_bits" not in found


@pytest.mark.parametrize("kind", [PackedMasksTransform, RoundedTransform])
def test_packed_masks_are_transformed_like_others(kind: type[GeneralizedRCNNTransform]) -> None:
    transform = kind(20, 50, [0.5] * 3, [0.2] * 3)
    image, one = torch.rand(3, SIDE, SIDE - 7), target(4)
    one["masks"] = one["masks"][:, :, :-7]
    same = {"boxes": one["boxes"], "labels": one["labels"], "mask_bits": packed(one["masks"])}
    (_, plain), (_, found) = transform([image], [one]), transform([image], [same])
    assert torch.equal(plain[0]["masks"], found[0]["masks"])
    assert "mask_bits" in same, "the target itself is not changed"
    if kind is PackedMasksTransform:
        (_, theirs) = GeneralizedRCNNTransform(20, 50, [0.5] * 3, [0.2] * 3)([image], [one])
        assert torch.equal(theirs[0]["masks"], found[0]["masks"])
        assert torch.equal(theirs[0]["boxes"], found[0]["boxes"])


def heads(conventions: str, kind: str, iou: float = 0.5) -> Any:
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
    rois, matches, labels, box_targets = heads(conventions, kind).select_training_samples([proposals], targets)
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


BOX_LOSSES = {
    ("torchvision", "mask_rcnn"): 1 / 9,
    ("torchvision", "cascade_mask_rcnn"): 1.0,
    ("mmdet", "faster_rcnn"): 0.0,
    ("mmdet", "mask_rcnn"): 0.0,
    ("mmdet", "cascade_mask_rcnn"): 1.0,
    ("mmdet1", "mask_rcnn"): 1.0,
    ("mmdet1", "cascade_mask_rcnn"): 1.0,
}
"""Beta of smooth L1; 0 is L1."""


@pytest.mark.parametrize(("conventions", "kind"), BOX_LOSSES)
def test_the_box_loss_is_a_sum_over_positive_rois_divided_by_all(conventions: str, kind: str) -> None:
    beta = BOX_LOSSES[conventions, kind]
    generator = torch.Generator().manual_seed(6)
    logits, deltas, targets = (torch.randn(9, n, generator=generator) for n in (4, 16, 4))
    labels = torch.tensor([0, 3, 1, 0, 0, 2, 0, 0, 0])
    found = box_losses(logits, deltas, labels, targets, heads(conventions, kind).box_loss)
    total = 0.0
    for row in (1, 2, 5):
        own = deltas[row, 4 * int(labels[row]) :][:4]
        for difference in (own - targets[row]).abs().tolist():
            total += difference - beta / 2 if difference > beta else difference**2 / 2 / beta
    assert float(found["loss_box_reg"]) == pytest.approx(total / 9, rel=1e-5)
    assert float(found["loss_classifier"]) == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)
    agnostic = box_losses(logits, deltas[:, :4], labels, targets, heads(conventions, kind).box_loss)
    repeated = box_losses(logits, deltas[:, :4].repeat(1, 4), labels, targets, heads(conventions, kind).box_loss)
    assert float(agnostic["loss_box_reg"]) == pytest.approx(float(repeated["loss_box_reg"]))


def sampled_share(mask: np.ndarray, box: list[float], side: int) -> np.ndarray:
    """Mean of the mask at the sampling points of each cell, interpolated between pixel centers."""
    return pooled_by_loop(mask.astype(float), box, 1, side)


def test_mask_targets_of_mmdet_are_aligned_and_binary() -> None:
    generator = torch.Generator().manual_seed(8)
    masks = (torch.rand(2, 37, 41, generator=generator) > 0.4).to(torch.uint8)
    boxes = torch.tensor([[3.2, 4.9, 30.5, 36.0], [0.0, 0.0, 41.0, 37.0], [10.3, 11.2, 14.1, 13.9]])
    indices = torch.tensor([0, 1, 1])
    found = heads("mmdet", "mask_rcnn").mask_targets(masks, boxes, indices, 7)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    for target, box, index in zip(found, boxes.tolist(), indices.tolist(), strict=True):
        share = sampled_share(masks[index].numpy(), box, 7)
        certain = np.abs(share - 0.5) > 1e-5
        assert np.array_equal(target.numpy()[certain], (share >= 0.5)[certain])
        assert certain.mean() > 0.9
    theirs = heads("torchvision", "mask_rcnn").mask_targets(masks, boxes, indices, 7)
    assert ((theirs > 0) & (theirs < 1)).any(), "torchvision's are fractions"
