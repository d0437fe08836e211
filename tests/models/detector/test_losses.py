"""Box losses and mask targets of each implementation, by hand or by a loop."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gcnet.models.detector.losses import box_losses, cropped_mask_targets
from models.detector.test_roi_heads import build_stage
from models.detector.test_roi_pool import pooled_by_loop

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
    found = box_losses(logits, deltas, labels, targets, build_stage(conventions, kind).box_loss)
    total = 0.0
    for row in (1, 2, 5):
        own = deltas[row, 4 * int(labels[row]) :][:4]
        for difference in (own - targets[row]).abs().tolist():
            total += difference - beta / 2 if difference > beta else difference**2 / 2 / beta
    assert float(found["loss_box_reg"]) == pytest.approx(total / 9, rel=1e-5)
    assert float(found["loss_classifier"]) == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)
    agnostic = box_losses(logits, deltas[:, :4], labels, targets, build_stage(conventions, kind).box_loss)
    repeated = box_losses(logits, deltas[:, :4].repeat(1, 4), labels, targets, build_stage(conventions, kind).box_loss)
    assert float(agnostic["loss_box_reg"]) == pytest.approx(float(repeated["loss_box_reg"]))


def test_mask_targets_of_mmdet_are_aligned_and_binary() -> None:
    generator = torch.Generator().manual_seed(8)
    masks = (torch.rand(2, 37, 41, generator=generator) > 0.4).to(torch.uint8)
    boxes = torch.tensor([[3.2, 4.9, 30.5, 36.0], [0.0, 0.0, 41.0, 37.0], [10.3, 11.2, 14.1, 13.9]])
    indices = torch.tensor([0, 1, 1])
    found = build_stage("mmdet", "mask_rcnn").mask_targets(masks, boxes, indices, 7)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    for target, box, index in zip(found, boxes.tolist(), indices.tolist(), strict=True):
        share = pooled_by_loop(masks[index].numpy().astype(float), box, 1, 7)
        certain = np.abs(share - 0.5) > 1e-5
        assert np.array_equal(target.numpy()[certain], (share >= 0.5)[certain])
        assert certain.mean() > 0.9
    theirs = build_stage("torchvision", "mask_rcnn").mask_targets(masks, boxes, indices, 7)
    assert ((theirs > 0) & (theirs < 1)).any(), "torchvision's are fractions"


def test_mask_targets_are_whole_pixels_resized_as_by_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    masks = (torch.rand(2, 37, 41, generator=torch.Generator().manual_seed(1)) > 0.5).to(torch.uint8)
    boxes = torch.tensor([[3.9, 4.2, 30.5, 36.0], [0.0, 0.0, 40.0, 36.0], [10.3, 11, 14.1, 13.9], [5.5, 6.5, 5.9, 6.9]])
    indices = torch.tensor([1, 0, 1, 0])
    found = cropped_mask_targets(masks, boxes, indices, 7)
    for target, box, index in zip(found, boxes.tolist(), indices.tolist(), strict=True):
        left, top, right, bottom = (int(value) for value in box)
        crop = masks[index].numpy()[top : bottom + 1, left : right + 1]
        assert np.array_equal(target.numpy(), cv2.resize(crop, (7, 7), interpolation=cv2.INTER_LINEAR))
    assert set(found.unique().tolist()) == {0.0, 1.0}
