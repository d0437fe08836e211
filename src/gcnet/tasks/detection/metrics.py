"""Evaluation of a detector, or of a file of detections, on annotated images."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from gcnet.data.coco.annotated_images import CocoSplit
from gcnet.data.coco.loading import DetectionBatch
from gcnet.data.coco.open import open_validation
from gcnet.data.dataset import Skipped
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError
from gcnet.models.outputs import evaluating
from gcnet.tasks.detection.coco_metrics import DetectionResult, evaluate_detections
from gcnet.tasks.detection.inference import detector_results
from gcnet.training.distributed import Processes

_ALONE = Processes()


def open_ground_truth(
    settings: DataSettings, seed: int = 0, *, needs_images: bool = True, repairs: bool = True
) -> CocoSplit:
    """Open annotated images for an evaluation.

    Args:
        settings: settings of the data.
        seed: seed of generated images, and of the split with `val_fraction`.
        needs_images: whether the image files must exist.
        repairs: repair or skip invalid annotations; otherwise keep them as pycocotools reads them.

    Returns:
        The validation images.

    Raises:
        UserError: the data do not exist.
    """
    return open_validation(settings, seed, split_seed=seed, needs_images=needs_images, repairs=repairs)


IOU_TYPES = {"box": "bbox", "mask": "segm"}  # as in pycocotools
_COCO_IMAGES = 5000


def metric_key(kind: str, name: str = "AP") -> str:
    """Return the key of a COCO metric in files, such as "bbox_AP50_fraction".

    Args:
        kind: "box" or "mask".
        name: of the metric, such as "AP50" or "AR100".
    """
    return f"{IOU_TYPES[kind]}_{name}_fraction"


@dataclass(frozen=True)
class DetectorResult:
    """Metrics and detections of a detector.

    Attributes:
        boxes: metrics by box IoU.
        masks: metrics by mask IoU, on the images whose objects all have masks; None if there are none, or if the
            detections have no masks.
        image_ids: ids of the evaluated images.
        objects: number of objects of each category by name, without crowds.
        skipped: images that could not be read.
        results: all detections, in COCO's result format; of several processes, in the first only.
    """

    boxes: DetectionResult
    masks: DetectionResult | None
    image_ids: tuple[int, ...] = field(repr=False)
    objects: Mapping[str, int]
    skipped: tuple[Skipped, ...]
    results: Sequence[Mapping[str, Any]] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as JSON values, fractions from 0 to 1; None where there are no objects."""
        kinds = self.kinds()
        return {
            "images": len(self.image_ids),
            "images_skipped": len(self.skipped),
            "skipped": [{"name": skipped.name, "reason": skipped.reason} for skipped in self.skipped],
            "objects": sum(self.objects.values()),
            "is_coco_subset": self.is_coco_subset,
            **self.scores(),
            "per_class": {
                name: {"objects": count} | {metric_key(kind): result.per_class[name] for kind, result in kinds.items()}
                for name, count in self.objects.items()
            },
        }

    def scores(self) -> dict[str, float | None]:
        """Return the COCO metrics of boxes and masks by `metric_key`."""
        return {
            metric_key(kind, name): value
            for kind, result in self.kinds().items()
            for name, value in result.numbers.items()
        }

    def kinds(self) -> dict[str, DetectionResult]:
        """Return the metrics by "box" and, with masks, "mask"."""
        return {"box": self.boxes} | ({} if self.masks is None else {"mask": self.masks})

    @property
    def is_coco_subset(self) -> bool:
        """Whether the images are a subset of COCO val2017, judging by number and categories."""
        return len(self.image_ids) < _COCO_IMAGES and set(self.objects) == set(_coco_names())


def evaluate_detector(
    model: nn.Module,
    batches: Iterable[DetectionBatch],
    annotations: Callable[[], Mapping[str, Any]],
    category_ids: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    progress: Callable[[int], None] = lambda _: None,
    processes: Processes = _ALONE,
) -> DetectorResult:
    """Evaluate a detector on the readable images; its training mode is restored afterwards.

    The first process computes the metrics from the detections of all, and sends them to the others.

    Args:
        model: detector, in evaluation mode a list of images (3, H, W) -> a dict of boxes, labels, scores and perhaps
            masks for each.
        batches: images of this process.
        annotations: returns the content of a COCO file without issues, with at least these images; called in the first
            process only.
        category_ids: category id of each label, in the order of the labels. Detections of categories that the
            annotations do not have are ignored, as in pycocotools.
        device: device of the model.
        autocast: half precision for the forward passes, or None.
        progress: called with the number of images after each batch.
        processes: processes that share the images.

    Returns:
        The metrics over the images of all processes.

    Raises:
        UserError: in every process: no image could be read, or a score is not from 0 to 1.
    """
    with evaluating(model) as network:
        found = _detect(network, batches, category_ids, torch.device(device), autocast, progress)
    gathered = processes.gather_in_first(found)

    def score() -> DetectorResult:
        results, image_ids, skipped, masks = (
            [item for part in parts for item in part] for parts in zip(*gathered, strict=True)
        )
        content = annotations()
        known = {category["id"] for category in content["categories"]}
        results = [result for result in results if result["category_id"] in known]
        return score_detections(content, results, sorted(image_ids), skipped, has_masks=all(masks))

    return score_in_first(processes, score)


def _detect(
    network: nn.Module,
    batches: Iterable[DetectionBatch],
    category_ids: Sequence[int],
    device: torch.device,
    autocast: torch.dtype | None,
    progress: Callable[[int], None],
) -> tuple[list[dict[str, Any]], list[int], list[Skipped], list[bool]]:
    """Detections, ids of the images read, images skipped, and of each batch whether its detections have masks."""
    results: list[dict[str, Any]] = []
    image_ids: list[int] = []
    skipped: list[Skipped] = []
    has_masks: list[bool] = []
    for batch in batches:
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            detections, with_masks = detector_results(network, batch.to(device).images, batch.image_ids, category_ids)
        results += detections
        image_ids += batch.image_ids
        skipped += batch.skipped
        has_masks.append(with_masks)
        progress(len(batch.names) + len(batch.skipped))
    return results, image_ids, skipped, has_masks


def score_in_first(processes: Processes, score: Callable[[], DetectorResult]) -> DetectorResult:
    """Compute metrics in the first process and send them to the others, without the detections.

    Args:
        processes: all processes.
        score: computes the metrics.

    Returns:
        The metrics; in other processes than the first, `results` is empty.

    Raises:
        UserError: in every process, if `score` raises one.
    """
    scored: list[DetectorResult] = []

    def metrics_only() -> DetectorResult:
        scored.append(score())
        return replace(scored[0], results=())

    metrics = processes.by_first(metrics_only)
    return scored[0] if scored else metrics


def score_detections(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int],
    skipped: Sequence[Skipped] = (),
    *,
    has_masks: bool = True,
) -> DetectorResult:
    """Compute the metrics of detections: of boxes, and of masks if all detections have them.

    Args:
        annotations: content of a COCO file without issues.
        results: detections in COCO's result format.
        image_ids: ids of the evaluated images.
        skipped: images that could not be read.
        has_masks: whether the detector predicts masks.

    Returns:
        The metrics.

    Raises:
        UserError: there are no images, or a score is not from 0 to 1.
    """
    if not image_ids:
        reasons = "; ".join(f"{image.name}: {image.reason}" for image in skipped[:3])
        raise UserError(f"no image could be read, so nothing can be evaluated; {reasons}")
    for result in results:
        if not abs(result["score"]) <= 1:
            raise UserError(f"scores must be from 0 to 1; image {result['image_id']} has one of {result['score']}")
    boxes = evaluate_detections(annotations, results, kind="bbox", image_ids=image_ids)
    masks = _evaluate_masks(annotations, results, image_ids) if has_masks else None
    objects = _count_objects(annotations, set(image_ids))
    return DetectorResult(boxes, masks, tuple(image_ids), objects, tuple(skipped), results)


def _evaluate_masks(
    annotations: Mapping[str, Any], results: Sequence[Mapping[str, Any]], image_ids: Sequence[int]
) -> DetectionResult | None:
    """Evaluate masks on the images whose objects all have one; None without such objects."""
    boxes_only = {entry["image_id"] for entry in annotations["annotations"] if not entry.get("segmentation")}
    kept = [identity for identity in image_ids if identity not in boxes_only]
    chosen = set(kept)
    objects = [entry for entry in annotations["annotations"] if entry["image_id"] in chosen]
    evaluated = [result for result in results if result["image_id"] in chosen]
    if (boxes_only and not objects) or not all(result.get("segmentation") for result in evaluated):
        return None
    return evaluate_detections({**annotations, "annotations": objects}, evaluated, kind="segm", image_ids=kept)


def _count_objects(annotations: Mapping[str, Any], image_ids: set[int]) -> dict[str, int]:
    counts = Counter(
        entry["category_id"]
        for entry in annotations["annotations"]
        if entry["image_id"] in image_ids and entry.get("iscrowd", 0) == 0
    )
    categories = sorted(annotations["categories"], key=lambda category: category["id"])
    return {category["name"]: counts[category["id"]] for category in categories}


def _coco_names() -> list[str]:
    """Return the names of the 80 categories of COCO, from torchvision."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [name for name in names if name not in ("__background__", "N/A")]
