"""Upper bound of mask AP for a mask head of a given resolution: true masks, downsampled."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import roi_align

from gcnet.data.coco.annotated_images import CocoImages
from gcnet.data.coco.masks import BitMasks
from gcnet.models.detector.mask_pasting import paste_masks
from gcnet.tasks.detection.coco_metrics import MASK_THRESHOLD, coco_results
from gcnet.tasks.detection.inference import chunks


def perfect_results(images: CocoImages, side: int = 28) -> list[dict[str, Any]]:
    """Detections whose only error is the resolution of their masks, in COCO's result format.

    Each mask is reduced to `side` x `side` cells of its box like the targets of mmdet's mask heads (RoIAlign with
    aligned pixels and adaptive samples, then a threshold of 0.5), and pasted back like a detector's masks.

    Args:
        images: annotated images.
        side: cells of a mask along each side of its box, from 1.
    """
    results = []
    for index in range(len(images)):
        objects, size = images.objects(index), images.size(index)
        for part in chunks(len(objects.boxes), size):
            detections = _coarse(objects.boxes[part], objects.labels[part], objects.masks.select(part), side)
            results += coco_results([detections], [images.image_id(index)], images.category_ids)
    return results


def _coarse(boxes: Float[Tensor, "n 4"], labels: Int[Tensor, " n"], masks: BitMasks, side: int) -> dict[str, Tensor]:
    rows = torch.arange(len(boxes), dtype=boxes.dtype)[:, None]  # (n, 1)
    dense = masks.dense()[:, None].to(boxes.dtype)  # (n, 1, H, W)
    pooled = roi_align(dense, torch.cat([rows, boxes], dim=1), side, 1.0, 0, aligned=True)
    pasted = paste_masks((pooled >= MASK_THRESHOLD).to(pooled.dtype), boxes, *dense.shape[-2:])
    return {"boxes": boxes, "labels": labels, "scores": torch.ones(len(boxes)), "masks": pasted}
