"""Evaluation of a detector, or of a file of detections, on annotated images."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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


def open_truth(settings: DataSettings, seed: int = 0, *, needs_images: bool = True, repairs: bool = True) -> CocoSplit:
    """The images of `open_validation`.

    Args:
        settings: which images.
        seed: of generated images, and of the choice of images with `val_fraction`.
        needs_images: whether the image files must be there.
        repairs: whether issues of the annotations are repaired or skipped; else they are as pycocotools loads them.

    Raises:
        UserError: there are no such data.
    """
    return open_validation(settings, seed, split_seed=seed, needs_images=needs_images, repairs=repairs)


IOU_TYPES = {"box": "bbox", "mask": "segm"}  # as in pycocotools
_COCO_IMAGES = 5000


@dataclass(frozen=True)
class DetectorResult:
    """What an evaluation found.

    Attributes:
        boxes: evaluated by the overlap of boxes.
        masks: evaluated by the overlap of masks; on the images whose objects all have masks; None where
            there are none, or detections have boxes only.
        image_ids: of the images evaluated.
        objects: how many of each category, by its name, are in these images; crowds do not count.
        skipped: images that could not be read, and were not evaluated.
        results: all detections, in COCO's result format.
    """

    boxes: DetectionResult
    masks: DetectionResult | None
    image_ids: tuple[int, ...] = field(repr=False)
    objects: Mapping[str, int]
    skipped: tuple[Skipped, ...]
    results: Sequence[Mapping[str, Any]] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON values, fractions from 0 to 1; None where there is nothing to find."""
        kinds = self.kinds()
        return {
            "images": len(self.image_ids),
            "images_skipped": len(self.skipped),
            "skipped": [{"name": skipped.name, "reason": skipped.reason} for skipped in self.skipped],
            "objects": sum(self.objects.values()),
            "is_coco_subset": self.is_coco_subset,
            **{IOU_TYPES[kind]: dict(found.numbers) for kind, found in kinds.items()},
            "per_class": {
                name: {"objects": count}
                | {f"{IOU_TYPES[kind]}_AP": found.per_class[name] for kind, found in kinds.items()}
                for name, count in self.objects.items()
            },
        }

    def kinds(self) -> dict[str, DetectionResult]:
        """The results by "box" and, if there are masks, "mask"."""
        return {"box": self.boxes} | ({} if self.masks is None else {"mask": self.masks})

    @property
    def is_coco_subset(self) -> bool:
        """Whether these are COCO's 80 categories on fewer images than its validation part has."""
        return len(self.image_ids) < _COCO_IMAGES and set(self.objects) == set(_coco_names())


def evaluate_detector(
    model: nn.Module,
    batches: Iterable[DetectionBatch],
    annotations: Mapping[str, Any],
    category_ids: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    progress: Callable[[int], None] = lambda _: None,
    gather: Callable[[object], list[Any]] = lambda value: [value],
) -> DetectorResult:
    """Judge a detector, whose training mode is put back; the images that could be read are those that count.

    Args:
        model: in evaluation mode, a list of images -> dicts of boxes, labels, scores and, of some, masks.
        batches: this process' share of the images.
        annotations: the content of a COCO file without issues, of these images and perhaps more.
        category_ids: of each label, in the order of the labels.
        device: of the model.
        autocast: a half precision, or None.
        progress: told of the number of images after each batch.
        gather: the values of all processes, of which each judges all.

    Raises:
        UserError: in every process, where no image could be read or scores are not finite.
    """
    place = torch.device(device)
    results: list[dict[str, Any]] = []
    image_ids: list[int] = []
    skipped: list[Skipped] = []
    has_masks = True
    with evaluating(model) as network:
        for batch in batches:
            with torch.autocast(place.type, dtype=autocast, enabled=autocast is not None):
                images = [image.to(place, non_blocking=True) for image in batch.images]
                found, with_masks = detector_results(network, images, batch.image_ids, category_ids)
            has_masks = has_masks and with_masks
            results += found
            image_ids += batch.image_ids
            skipped += batch.skipped
            progress(len(batch.names) + len(batch.skipped))
    everyone = gather((results, image_ids, skipped, [has_masks]))
    results, image_ids, skipped, masks = (
        [one for part in parts for one in part] for parts in zip(*everyone, strict=True)
    )
    return judge(annotations, results, sorted(image_ids), skipped, has_masks=all(masks))


def judge(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int],
    skipped: Sequence[Skipped] = (),
    *,
    has_masks: bool = True,
) -> DetectorResult:
    """Evaluate the boxes of these images and, if all results and all annotations have masks, the masks.

    Args:
        annotations: the content of a COCO file without faults.
        results: in COCO's result format.
        image_ids: of the images that count.
        skipped: images that could not be read.
        has_masks: whether the results are of a detector that predicts masks.

    Raises:
        UserError: there is no image, or a score that is not finite.
    """
    if not image_ids:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in skipped[:3])
        raise UserError(f"no image could be read, so there is nothing to judge; {reasons}")
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
    """The masks evaluated on the images whose objects all have one; None where there is no such image with objects."""
    boxes_only = {one["image_id"] for one in annotations["annotations"] if not one.get("segmentation")}
    kept = [identity for identity in image_ids if identity not in boxes_only]
    chosen = set(kept)
    objects = [one for one in annotations["annotations"] if one["image_id"] in chosen]
    found = [one for one in results if one["image_id"] in chosen]
    if (boxes_only and not objects) or not all(one.get("segmentation") for one in found):
        return None
    return evaluate_detections({**annotations, "annotations": objects}, found, kind="segm", image_ids=kept)


def _count_objects(annotations: Mapping[str, Any], image_ids: set[int]) -> dict[str, int]:
    counts = Counter(
        one["category_id"]
        for one in annotations["annotations"]
        if one["image_id"] in image_ids and one.get("iscrowd", 0) == 0
    )
    categories = sorted(annotations["categories"], key=lambda category: category["id"])
    return {category["name"]: counts[category["id"]] for category in categories}


def _coco_names() -> list[str]:
    """The names of COCO's 80 categories, as torchvision lists them."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [name for name in names if name not in ("__background__", "N/A")]
