"""What a mask head of a given resolution could reach at best: the true masks, made as coarse as its targets."""

from typing import Any

import torch
from torchvision.ops import roi_align

from gcnet.data.coco.images import CocoImages
from gcnet.evaluation.detection import MASK_THRESHOLD, coco_results
from gcnet.models.detector.transform import paste_masks


def mask_oracle(images: CocoImages, side: int = 28) -> list[dict[str, Any]]:
    """Results of a detector without any error but for the resolution of its masks, in COCO's format.

    Each object's mask is reduced to `side` x `side` cells of its box as mmdet makes the targets of a mask head
    (RoIAlign with aligned pixels and adaptive samples, then a threshold of a half), and pasted back as a detector
    pastes its own.
    """
    results = []
    for index in range(len(images)):
        objects, size = images.objects(index), images.size(index)
        rows = torch.arange(len(objects.boxes), dtype=objects.boxes.dtype)[:, None]  # (n, 1)
        masks = objects.masks.dense()[:, None].to(objects.boxes.dtype)  # (n, 1, H, W)
        pooled = roi_align(masks, torch.cat([rows, objects.boxes], dim=1), side, 1.0, 0, aligned=True)
        found = {
            "boxes": objects.boxes,
            "labels": objects.labels,
            "scores": torch.ones(len(objects.boxes)),
            "masks": paste_masks((pooled >= MASK_THRESHOLD).to(pooled.dtype), objects.boxes, *size),
        }
        results += coco_results([found], [images.image_id(index)], images.category_ids)
    return results
