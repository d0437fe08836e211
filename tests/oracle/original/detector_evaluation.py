"""Detections of one of mmdet's detectors in several images, and their evaluation by mmdet's `CocoMetric`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectors import batch_of, detector
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.structures.mask import encode_mask_results

_NUMBERS = {
    "AP": "mAP",
    "AP50": "mAP_50",
    "AP75": "mAP_75",
    "APs": "mAP_s",
    "APm": "mAP_m",
    "APl": "mAP_l",
    "AR1": "AR@100",
    "AR10": "AR@300",
    "AR100": "AR@1000",
    "ARs": "AR_s@1000",
    "ARm": "AR_m@1000",
    "ARl": "AR_l@1000",
}
"""The twelve numbers, by mmdet's names for its own limits of 100, 300 and 1000 detections."""
_SAMPLES: list[dict[str, Any]] = []


@torch.no_grad()
def detect(path: str, config: str, *, images: Mapping[str, str], **options: Any) -> None:
    """Run the detector of `detectors.detector` on image files by their ids, and write the detections as JSON."""
    model = detector(config, image=next(iter(images.values())), **options)
    _SAMPLES[:] = [
        model.test_step(batch_of(model, image, int(image_id)))[0].to_dict() for image_id, image in images.items()
    ]
    Path(path).write_text(json.dumps([_as_json(sample) for sample in _SAMPLES]))


def _as_json(sample: Mapping[str, Any]) -> dict[str, Any]:
    predicted = sample["pred_instances"]
    masks = [mask | {"counts": mask["counts"].decode()} for mask in encode_mask_results(predicted["masks"].numpy())]
    return {"image_id": sample["img_id"], "masks": masks} | {
        name: predicted[name].tolist() for name in ("bboxes", "labels", "scores")
    }


def evaluate(annotations: str) -> dict[str, dict[str, float]]:
    """Evaluate the detections of the last `detect`.

    Returns:
        The twelve numbers of COCO, rounded to three places by mmdet, by name, of boxes ("bbox") and masks ("segm").
    """
    limits = (1, 10, 100)
    metric = CocoMetric(annotations, ["bbox", "segm"], proposal_nums=limits, metric_items=list(_NUMBERS.values()))
    metric.dataset_meta = CocoDataset.METAINFO
    metric.process({}, _SAMPLES)
    scores = metric.evaluate(len(_SAMPLES))
    return {kind: {name: scores[f"coco/{kind}_{own}"] for name, own in _NUMBERS.items()} for kind in ("bbox", "segm")}
