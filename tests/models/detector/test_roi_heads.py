"""The mask loss equals torchvision's where all objects have masks, and skips those that have none."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from gcnet.models.create import create_model
from gcnet.models.detector import roi_heads
from gcnet.models.detector.transform import PackedMasksTransform, RoundedTransform, resize_masks

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


@pytest.mark.parametrize("conventions", ["mmdet", "torchvision"])
@pytest.mark.parametrize("count", [3, 40])
def test_losses_are_torchvisions_where_all_objects_have_masks(conventions: str, count: int) -> None:
    model = build(conventions=conventions)
    plain = copy.deepcopy(model)
    plain.roi_heads.forward = RoIHeads.forward.__get__(plain.roi_heads)
    targets = [target(count), target(1)]
    ours, theirs = losses(model, targets), losses(plain, targets)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    marked = [{**one, "has_mask": torch.ones(len(one["labels"]), dtype=torch.bool)} for one in targets]
    assert torch.equal(losses(model, marked)["loss_mask"], theirs["loss_mask"])


@pytest.mark.parametrize("name", ["mask_rcnn_scenes_resnet", "cascade_mask_rcnn_scenes_resnet"])
def test_what_stands_in_the_place_of_a_missing_mask_has_no_effect(name: str) -> None:
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
    monkeypatch.setattr(roi_heads, "_MASK_CHUNK", 7)
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
