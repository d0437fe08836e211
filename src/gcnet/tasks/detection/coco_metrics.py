"""COCO's box and mask AP and AR."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from gcnet.data.coco.masks import compressed_runs, segmentation_mask
from gcnet.errors import UserError, unknown

KINDS = ("bbox", "segm")
NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve metrics, in the order of pycocotools: AP and AR over IoU 0.50 to 0.95, by IoU, size and detections."""
DEFINITIONS = (
    "precision, IoU 0.50 to 0.95",
    "precision, IoU 0.50",
    "precision, IoU 0.75",
    "precision, objects below 32 x 32 pixels",
    "precision, up to 96 x 96 pixels",
    "precision, above",
    "recall, 1 detection per image and class",
    "recall, 10 detections",
    "recall, 100 detections",
    "recall, objects below 32 x 32 pixels",
    "recall, up to 96 x 96 pixels",
    "recall, above",
)
"""A short definition of each of `NUMBERS`."""
MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class DetectionResult:
    """COCO metrics of boxes or of masks; fractions from 0 to 1.

    Attributes:
        kind: "bbox" or "segm".
        numbers: the metrics of `NUMBERS` by name; None without such objects, for example small ones.
        per_class: AP of each category by name; None for a category without objects.
        images: number of evaluated images.
        precision: `precision[i, j, k]` is the precision at IoU 0.50 + 0.05 i and recall j / 100 of the k-th category,
            NaN for a category without objects.
    """

    kind: str
    numbers: Mapping[str, float | None]
    per_class: Mapping[str, float | None]
    images: int
    precision: Float[np.ndarray, "10 101 categories"] = field(repr=False)


def coco_results(
    detections: Sequence[Mapping[str, Tensor]], image_ids: Sequence[int], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Convert the output of a detector to COCO's result format.

    Args:
        detections: for each image `boxes` (n, 4) with corners in pixels, `labels` (n,) from 1, `scores` (n,), and of a
            detector with masks `masks` (n, 1, H, W) with probabilities, which are thresholded at 0.5.
        image_ids: id of each image.
        category_ids: category id of each label, in the order of the labels.

    Returns:
        The results; boxes as left, top, width and height in pixels, masks as compressed RLE.
    """
    return [
        result
        for of_image, image_id in zip(detections, image_ids, strict=True)
        for result in _results_of_image(of_image, image_id, category_ids)
    ]


def evaluate_detections(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    kind: str = "bbox",
    image_ids: Sequence[int] | None = None,
) -> DetectionResult:
    """Evaluate results against annotations as the COCO API, with at most 100 detections per image and class.

    Args:
        annotations: content of a COCO file without issues.
        results: results of `coco_results`, or of a file in this format.
        kind: "bbox" for boxes, "segm" for masks.
        image_ids: images to evaluate (default: all in the annotations).

    Returns:
        The metrics.

    Raises:
        UserError: `kind` is unknown, there are no categories, a result has an unknown image or category id or lacks a
            box or mask, or masks are evaluated and the annotations have none.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    _check(annotations, results, kind)
    annotations, results, image_ids = _without_negative_ids(annotations, results, image_ids)
    # The import takes 0.1 s, and is needed by evaluations only.
    from faster_coco_eval import COCO, COCOeval_faster

    with warnings.catch_warnings():
        # As in pycocotools, an object with id 0 is always a false negative; such ids remain only without repairs.
        warnings.filterwarnings("ignore", "Found annotation id 0", UserWarning)
        # faster-coco-eval adds keys to annotations, and replaces values, but changes no value in place.
        ground_truth = COCO({**annotations, "annotations": list(map(dict, annotations["annotations"]))})
    evaluated = _mask_results(results, annotations) if kind == "segm" else [dict(result) for result in results]
    evaluation = COCOeval_faster(ground_truth, ground_truth.loadRes(evaluated), kind, print_function=lambda *_: None)
    if image_ids is not None:
        evaluation.params.imgIds = list(image_ids)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]  # all sizes, 100 detections
    precision = np.where(precision < 0, np.nan, precision)
    names = {category["id"]: category["name"] for category in annotations["categories"]}
    per_class = {
        names[identity]: _fraction(values.mean() if np.isfinite(values).any() else -1.0)
        for identity, values in zip(evaluation.params.catIds, np.moveaxis(precision, 2, 0), strict=True)
    }
    return DetectionResult(
        kind=kind,
        numbers={name: _fraction(value) for name, value in zip(NUMBERS, evaluation.stats[:12], strict=True)},
        per_class=per_class,
        images=len(evaluation.params.imgIds),
        precision=precision,
    )


def compressed(segmentation: Any, height: int, width: int) -> Any:
    """Convert a segmentation to compressed RLE.

    Args:
        segmentation: polygons or RLE of an annotation or result without issues.
        height: image height in pixels.
        width: image width in pixels.

    Returns:
        Compressed RLE, in COCO's format.
    """
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str | bytes):
        return segmentation
    return compressed_runs(segmentation_mask(segmentation, height, width))


def _results_of_image(
    detections: Mapping[str, Tensor], image_id: int, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    corners = detections["boxes"].cpu().double()
    sizes = corners[:, 2:] - corners[:, :2]
    labels, scores = detections["labels"].tolist(), detections["scores"].tolist()
    results: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": [*corner, *size], "score": score}
        for label, score, corner, size in zip(labels, scores, corners[:, :2].tolist(), sizes.tolist(), strict=True)
    ]
    if "masks" in detections:
        masks = (detections["masks"][:, 0] >= MASK_THRESHOLD).cpu().numpy()  # (n, H, W)
        for result, mask in zip(results, masks, strict=True):
            result["segmentation"] = compressed_runs(mask)
    return results


def _check(annotations: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str) -> None:
    needed = {"bbox": "bbox", "segm": "segmentation"}[kind]
    if not annotations["categories"]:
        raise UserError("the annotations have no category, so nothing can be evaluated")
    if kind == "segm" and not all(annotation.get("segmentation") for annotation in annotations["annotations"]):
        raise UserError("masks are evaluated against masks, and some annotations have no segmentation; evaluate bbox")
    images = {image["id"] for image in annotations["images"]}
    categories = {category["id"] for category in annotations["categories"]}
    keys = ("image_id", "category_id", "score", needed)
    for number, result in enumerate(results, start=1):
        for key in keys:
            if key not in result:
                raise UserError(f'result {number} has no "{key}", which is needed to evaluate {kind}')
        if result["image_id"] not in images:
            raise UserError(f"result {number} is of image {result['image_id']}, which the annotations do not have")
        if result["category_id"] not in categories:
            raise UserError(
                f"result {number} is of category {result['category_id']}, which the annotations do not have"
            )


def _without_negative_ids(
    annotations: Mapping[str, Any], results: Sequence[Mapping[str, Any]], image_ids: Sequence[int] | None
) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]], Sequence[int] | None]:
    """Renumber images from 1 if ids are negative, which faster-coco-eval does not support."""
    identities = sorted({image["id"] for image in annotations["images"]})
    if not identities or identities[0] >= 0:
        return annotations, results, image_ids
    number = {identity: place for place, identity in enumerate(identities, start=1)}
    images = [{**image, "id": number[image["id"]]} for image in annotations["images"]]
    objects = [{**entry, "image_id": number[entry["image_id"]]} for entry in annotations["annotations"]]
    renamed = [{**result, "image_id": number[result["image_id"]]} for result in results]
    chosen = None if image_ids is None else [number[identity] for identity in image_ids]
    return {**annotations, "images": images, "annotations": objects}, renamed, chosen


def _mask_results(results: Sequence[Mapping[str, Any]], annotations: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the results with masks as compressed RLE, and without boxes, so that COCO uses the mask areas."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in annotations["images"]}
    converted = []
    for number, result in enumerate(results, start=1):
        runs, size = result["segmentation"], sizes[result["image_id"]]
        if isinstance(runs, dict) and runs.get("size") != size:
            raise UserError(f"result {number} has a mask of size {runs.get('size')} in an image of {size}")
        kept = {key: value for key, value in result.items() if key != "bbox"}
        converted.append(kept | {"segmentation": compressed(runs, *size)})
    return converted


def _fraction(value: float) -> float | None:
    """Convert a COCO metric; -1 means that there is nothing to measure."""
    return None if value < 0 else float(value)
