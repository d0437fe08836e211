"""Matches detections to ground truth per image: true positives, false positives, false negatives."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gcnet.tasks.detection.coco_metrics import compressed

MIN_SCORE, MIN_IOU = 0.5, 0.5
"""Minimum score of a detection, and minimum IoU of its mask (or box) with an object."""

DetectionStatus = Literal["TP", "FP", "crowd"]
_Entry = Mapping[str, Any]


@dataclass(frozen=True)
class ImageMatches:
    """Matches between detections and objects of one image.

    Detections with a score of at least `MIN_SCORE` are matched in order of their scores, each to the unmatched object
    of its class with the highest mask IoU of at least `MIN_IOU`; box IoU without masks. An unmatched detection inside a
    crowd of its class is ignored, any other is a false positive.

    Attributes:
        image: entry of the image in the COCO file.
        objects: annotations of the objects, without crowds.
        is_matched: whether each object is matched.
        crowds: annotations of the crowds.
        detections: results, the highest score first.
        statuses: of each detection: true positive, false positive, or inside a crowd.
    """

    image: _Entry
    objects: tuple[_Entry, ...]
    is_matched: tuple[bool, ...]
    crowds: tuple[_Entry, ...]
    detections: tuple[_Entry, ...]
    statuses: tuple[DetectionStatus, ...]

    @property
    def true_positives(self) -> int:
        """Number of matched objects."""
        return sum(self.is_matched)

    @property
    def false_negatives(self) -> int:
        """Number of unmatched objects."""
        return len(self.objects) - self.true_positives

    @property
    def false_positives(self) -> int:
        """Number of unmatched detections outside crowds."""
        return self.statuses.count("FP")

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FN + FP); 1 without objects and false positives."""
        errors = self.false_negatives + self.false_positives
        return 1.0 if not errors else 2 * self.true_positives / (2 * self.true_positives + errors)


def worst_first(matches: Sequence[ImageMatches]) -> list[ImageMatches]:
    """Return the `matches` with errors, sorted by F1, ties by the number of errors, the worst first."""
    with_errors = [match for match in matches if match.false_negatives or match.false_positives]
    return sorted(
        with_errors, key=lambda match: (match.f1, -match.false_negatives - match.false_positives, match.image["id"])
    )


def match_images(
    annotations: Mapping[str, Any], results: Sequence[_Entry], image_ids: Collection[int]
) -> list[ImageMatches]:
    """Match detections and objects of several images.

    Args:
        annotations: content of a COCO file without issues.
        results: detections in COCO's result format.
        image_ids: ids of the images.

    Returns:
        The matches of each image.
    """
    images = {image["id"]: image for image in annotations["images"]}
    ground_truth: dict[int, list[_Entry]] = {identity: [] for identity in image_ids}
    detections: dict[int, list[_Entry]] = {identity: [] for identity in image_ids}
    for entries, of_image in ((annotations["annotations"], ground_truth), (results, detections)):
        for entry in entries:
            if entry["image_id"] in of_image:
                of_image[entry["image_id"]].append(entry)
    return [match_image(images[identity], ground_truth[identity], detections[identity]) for identity in image_ids]


def match_image(image: _Entry, annotations: Sequence[_Entry], results: Sequence[_Entry]) -> ImageMatches:
    """Match detections and objects of one image.

    Args:
        image: entry of the image in the COCO file.
        annotations: its annotations.
        results: its detections in COCO's result format.

    Returns:
        The matches.
    """
    objects = [annotation for annotation in annotations if not annotation.get("iscrowd", 0)]
    crowds = [annotation for annotation in annotations if annotation.get("iscrowd", 0)]
    detections = sorted(
        (result for result in results if result["score"] >= MIN_SCORE), key=lambda result: -result["score"]
    )
    overlaps = _overlaps(detections, objects, image, crowd=False)
    covers = _overlaps(detections, crowds, image, crowd=True)
    is_matched, statuses = np.zeros(len(objects), dtype=bool), []
    for overlap, cover in zip(overlaps, covers, strict=True):
        free = np.where(is_matched, 0.0, overlap)
        is_true_positive = bool((free >= MIN_IOU).any())
        if is_true_positive:
            is_matched[free.argmax()] = True
        statuses.append(_status(is_true_positive, bool((cover >= MIN_IOU).any())))
    return ImageMatches(
        image, tuple(objects), tuple(map(bool, is_matched)), tuple(crowds), tuple(detections), tuple(statuses)
    )


def _status(is_true_positive: bool, is_in_crowd: bool) -> DetectionStatus:
    if is_true_positive:
        return "TP"
    return "crowd" if is_in_crowd else "FP"


def _overlaps(
    detections: Sequence[_Entry], ground_truth: Sequence[_Entry], image: _Entry, *, crowd: bool
) -> np.ndarray:
    """Compute the IoU of detections and objects, of crowds the covered share of the detection; 0 across classes."""
    from faster_coco_eval.core import mask as coco

    if not detections or not ground_truth:
        return np.zeros((len(detections), len(ground_truth)))
    size = image["height"], image["width"]
    if all(entry.get("segmentation") for entry in (*detections, *ground_truth)):
        shapes: Any = [
            [compressed(entry["segmentation"], *size) for entry in part] for part in (detections, ground_truth)
        ]
    else:
        shapes = [np.array([entry["bbox"] for entry in part], dtype=float) for part in (detections, ground_truth)]
    classes = [np.array([entry["category_id"] for entry in part]) for part in (detections, ground_truth)]
    overlaps = np.asarray(coco.iou(*shapes, [int(crowd)] * len(ground_truth))).reshape(
        len(detections), len(ground_truth)
    )
    return np.where(classes[0][:, None] == classes[1], overlaps, 0.0)
