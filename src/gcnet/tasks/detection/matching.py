"""Matches detections to ground truth per image: true positives, false positives, false negatives."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gcnet.data.coco.annotated_images import Entry
from gcnet.tasks.detection.coco_metrics import compressed

SCORE, OVERLAP = 0.5, 0.5
"""Detections count from this score on, and find an object whose mask (or box) they overlap by this much (IoU)."""

Verdict = Literal["right", "wrong", "crowd"]


@dataclass(frozen=True)
class Outcome:
    """What came of the objects and the detections of one image.

    A detection with a score of at least `SCORE` finds the object of its class, not yet found by one of a higher score,
    that its mask overlaps most, by at least `OVERLAP`; boxes count where there are no masks. Others are false, but for
    those that lie in a crowd of their class, which count neither way.

    Attributes:
        image: entry of the image in the COCO file.
        objects: annotations of the objects, without crowds.
        is_found: of each object.
        crowds: annotations of the crowds.
        detections: results, the highest score first.
        verdicts: of each detection: whether it is right, wrong, or lies in a crowd.
    """

    image: Entry
    objects: tuple[Entry, ...]
    is_found: tuple[bool, ...]
    crowds: tuple[Entry, ...]
    detections: tuple[Entry, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def found(self) -> int:
        """Objects found."""
        return sum(self.is_found)

    @property
    def missed(self) -> int:
        """Objects not found."""
        return len(self.objects) - self.found

    @property
    def false(self) -> int:
        """Detections of nothing, and second ones of the same object."""
        return self.verdicts.count("wrong")

    @property
    def f1(self) -> float:
        """2 x found / (2 x found + missed + false); 1 where there is nothing to find and nothing false."""
        errors = self.missed + self.false
        return 1.0 if not errors else 2 * self.found / (2 * self.found + errors)


def worst_first(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes with an error, the lowest F1 first, of equal ones that with the most errors."""
    wrong = [outcome for outcome in outcomes if outcome.missed or outcome.false]
    return sorted(wrong, key=lambda one: (one.f1, -one.missed - one.false, one.image["id"]))


def match_images(annotations: Mapping[str, Any], results: Sequence[Entry], image_ids: Collection[int]) -> list[Outcome]:
    """The outcomes of some images of a COCO file without issues, by results of COCO's format."""
    images = {image["id"]: image for image in annotations["images"]}
    truth: dict[int, list[Entry]] = {identity: [] for identity in image_ids}
    found: dict[int, list[Entry]] = {identity: [] for identity in image_ids}
    for entries, of_image in ((annotations["annotations"], truth), (results, found)):
        for entry in entries:
            if entry["image_id"] in of_image:
                of_image[entry["image_id"]].append(entry)
    return [match_image(images[identity], truth[identity], found[identity]) for identity in image_ids]


def match_image(image: Entry, annotations: Sequence[Entry], results: Sequence[Entry]) -> Outcome:
    """The outcome of one image by its annotations and results."""
    objects = [one for one in annotations if not one.get("iscrowd", 0)]
    crowds = [one for one in annotations if one.get("iscrowd", 0)]
    detections = sorted((one for one in results if one["score"] >= SCORE), key=lambda one: -one["score"])
    overlaps = _overlaps(detections, objects, image, crowd=False)
    covers = _overlaps(detections, crowds, image, crowd=True)
    is_found, verdicts = np.zeros(len(objects), dtype=bool), []
    for overlap, cover in zip(overlaps, covers, strict=True):
        free = np.where(is_found, 0.0, overlap)
        is_right = bool((free >= OVERLAP).any())
        if is_right:
            is_found[free.argmax()] = True
        verdicts.append(_verdict(is_right, bool((cover >= OVERLAP).any())))
    found = tuple(map(bool, is_found))
    return Outcome(image, tuple(objects), found, tuple(crowds), tuple(detections), tuple(verdicts))


def _verdict(is_right: bool, is_in_crowd: bool) -> Verdict:
    if is_right:
        return "right"
    return "crowd" if is_in_crowd else "wrong"


def _overlaps(detections: Sequence[Entry], truth: Sequence[Entry], image: Entry, *, crowd: bool) -> np.ndarray:
    """IoU of each detection with each object (of a crowd: the share of the detection in it); 0 of other classes."""
    from faster_coco_eval.core import mask as coco

    if not detections or not truth:
        return np.zeros((len(detections), len(truth)))
    size = image["height"], image["width"]
    if all(one.get("segmentation") for one in (*detections, *truth)):
        shapes: Any = [[compressed(one["segmentation"], *size) for one in part] for part in (detections, truth)]
    else:
        shapes = [np.array([one["bbox"] for one in part], dtype=float) for part in (detections, truth)]
    classes = [np.array([one["category_id"] for one in part]) for part in (detections, truth)]
    overlaps = np.asarray(coco.iou(*shapes, [int(crowd)] * len(truth))).reshape(len(detections), len(truth))
    return np.where(classes[0][:, None] == classes[1], overlaps, 0.0)
