"""COCO's box and mask AP and AR."""

import copy
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
"""COCO's twelve, in its order: average precision and recall over IoU 0.50 to 0.95, by IoU, by size, by detections."""
DEFINITIONS = (
    "precision, IoU 0.50 to 0.95",
    "precision, IoU 0.50",
    "precision, IoU 0.75",
    "precision, objects below 32 x 32 pixels",
    "precision, up to 96 x 96 pixels",
    "precision, above",
    "recall, 1 detection an image and class",
    "recall, 10 detections",
    "recall, 100 detections",
    "recall, objects below 32 x 32 pixels",
    "recall, up to 96 x 96 pixels",
    "recall, above",
)
"""Of each of `NUMBERS`, in short."""
MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class DetectionResult:
    """What an evaluation of boxes or masks found; all numbers are fractions from 0 to 1.

    `numbers` holds `NUMBERS` by name, None where the annotations have nothing to find (no small object, say);
    `per_class` the AP of each category by its name, None where it has no object; `precision[i, j, k]` the precision at
    IoU 0.50 + 0.05 i and recall j / 100 of the k-th category, NaN where it has no object; `images` is how many
    were evaluated.
    """

    kind: str
    numbers: Mapping[str, float | None]
    per_class: Mapping[str, float | None]
    images: int
    precision: Float[np.ndarray, "10 101 categories"] = field(repr=False)


def coco_results(
    detections: Sequence[Mapping[str, Tensor]], image_ids: Sequence[int], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """A detector's output in COCO's result format: boxes as left, top, width, height; masks as compressed run lengths.

    Args:
        detections: of each image: `boxes` (n, 4) corners in pixels, `labels` (n,) from 1, `scores` (n,), and where
            there are masks, `masks` (n, 1, H, W) probabilities, of which a pixel belongs to the mask from a half on.
        image_ids: of each image.
        category_ids: of each label, in the order of the labels.
    """
    return [
        result
        for found, image_id in zip(detections, image_ids, strict=True)
        for result in _results_of_image(found, image_id, category_ids)
    ]


def evaluate_detections(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    kind: str = "bbox",
    image_ids: Sequence[int] | None = None,
) -> DetectionResult:
    """Judge results against annotations as the COCO API does, with at most 100 detections an image and class.

    Args:
        annotations: the content of a COCO file without issues.
        results: of `coco_results`, or read from a file of that format.
        kind: "bbox" for boxes, "segm" for masks.
        image_ids: judge these images alone; by default all of the annotations.

    Raises:
        UserError: an unknown kind; no category; a result of an image or a category that the annotations lack; a
            result without what is evaluated; masks to evaluate where the annotations have none.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    _check(annotations, results, kind)
    annotations, results, image_ids = _without_negative_ids(annotations, results, image_ids)
    # Imported here: the library takes a tenth of a second, and neither training nor drawing needs it.
    from faster_coco_eval import COCO, COCOeval_faster

    with warnings.catch_warnings():
        # An object of id 0 counts as missed even where it is found, in pycocotools and here; only files evaluated
        # without repairs have one.
        warnings.filterwarnings("ignore", "Found annotation id 0", UserWarning)
        truth = COCO(copy.deepcopy(dict(annotations)))
    judged = _masks_of(results, annotations) if kind == "segm" else [dict(result) for result in results]
    evaluation = COCOeval_faster(truth, truth.loadRes(judged), kind, print_function=lambda *_: None)
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
    """The segmentation of an annotation or a result, without issues, as compressed run lengths."""
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str | bytes):
        return segmentation
    return compressed_runs(segmentation_mask(segmentation, height, width))


def _results_of_image(found: Mapping[str, Tensor], image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    corners = found["boxes"].cpu().double()
    sizes = corners[:, 2:] - corners[:, :2]
    labels, scores = found["labels"].tolist(), found["scores"].tolist()
    results: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": [*corner, *size], "score": score}
        for label, score, corner, size in zip(labels, scores, corners[:, :2].tolist(), sizes.tolist(), strict=True)
    ]
    if "masks" in found:
        masks = (found["masks"][:, 0] >= MASK_THRESHOLD).cpu().numpy()  # (n, H, W)
        for result, mask in zip(results, masks, strict=True):
            result["segmentation"] = compressed_runs(mask)
    return results


def _check(annotations: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str) -> None:
    needed = {"bbox": "bbox", "segm": "segmentation"}[kind]
    if not annotations["categories"]:
        raise UserError("the annotations have no category, so there is nothing to judge")
    if kind == "segm" and not all(annotation.get("segmentation") for annotation in annotations["annotations"]):
        raise UserError("masks are evaluated against masks, and some annotations have no segmentation; evaluate bbox")
    images = {image["id"] for image in annotations["images"]}
    categories = {category["id"] for category in annotations["categories"]}
    for number, result in enumerate(results, start=1):
        for key in ("image_id", "category_id", "score", needed):
            if key not in result:
                raise UserError(f'result {number} has no "{key}", which judging {kind} needs')
        if result["image_id"] not in images:
            raise UserError(f"result {number} is of image {result['image_id']}, which the annotations do not have")
        if result["category_id"] not in categories:
            raise UserError(
                f"result {number} is of category {result['category_id']}, which the annotations do not have"
            )


def _without_negative_ids(
    annotations: Mapping[str, Any], results: Sequence[Mapping[str, Any]], image_ids: Sequence[int] | None
) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]], Sequence[int] | None]:
    """The same with image ids from 1 in the same order where some are negative, which faster-coco-eval refuses."""
    identities = sorted({image["id"] for image in annotations["images"]})
    if not identities or identities[0] >= 0:
        return annotations, results, image_ids
    number = {identity: place for place, identity in enumerate(identities, start=1)}
    images = [{**image, "id": number[image["id"]]} for image in annotations["images"]]
    objects = [{**one, "image_id": number[one["image_id"]]} for one in annotations["annotations"]]
    renamed = [{**result, "image_id": number[result["image_id"]]} for result in results]
    chosen = None if image_ids is None else [number[identity] for identity in image_ids]
    return {**annotations, "images": images, "annotations": objects}, renamed, chosen


def _masks_of(results: Sequence[Mapping[str, Any]], annotations: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The results without their boxes, from which COCO would take the areas, and with compressed run lengths."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in annotations["images"]}
    judged = []
    for number, result in enumerate(results, start=1):
        runs, size = result["segmentation"], sizes[result["image_id"]]
        if isinstance(runs, dict) and runs.get("size") != size:
            raise UserError(f"result {number} has a mask of size {runs.get('size')} in an image of {size}")
        kept = {key: value for key, value in result.items() if key != "bbox"}
        judged.append(kept | {"segmentation": compressed(runs, *size)})
    return judged


def _fraction(value: float) -> float | None:
    """COCO's -1 stands for nothing to measure."""
    return None if value < 0 else float(value)
