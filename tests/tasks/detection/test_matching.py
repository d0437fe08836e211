"""Matches of detections and objects: cases computed by hand, and agreement with the COCO API."""

import contextlib
import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gcnet.data.coco.inspection import read_annotations
from gcnet.data.coco.masks import compressed_runs
from gcnet.data.scenes import Scenes
from gcnet.tasks.detection.matching import MIN_IOU, MIN_SCORE, match_image, match_images, worst_first
from tasks.shaken import as_results, shaken

Content = dict[str, Any]

IMAGE = {"id": 5, "file_name": "a.png", "height": 11, "width": 40}


def thing(left: int, width: int, *, category: int = 1, **more: object) -> Content:
    """An annotation or a result whose mask has as many pixels as it is wide."""
    mask = np.zeros((11, 40), dtype=bool)
    mask[4, left : left + width] = True
    runs = compressed_runs(mask)
    return {"image_id": 5, "category_id": category, "bbox": [left, 4, width, 1], "segmentation": runs, **more}


CASES = {
    "nothing at all": ([], [], (0, 0, 0, 1.0)),
    "detected": ([thing(0, 10)], [thing(0, 10, score=0.9)], (1, 0, 0, 1.0)),
    "an overlap of a half suffices": ([thing(0, 10)], [thing(0, 5, score=0.9)], (1, 0, 0, 1.0)),
    "less does not": ([thing(0, 10)], [thing(0, 4, score=0.9)], (0, 1, 1, 0.0)),
    "a score of a half suffices": ([thing(0, 10)], [thing(0, 10, score=0.5)], (1, 0, 0, 1.0)),
    "less is no detection": ([thing(0, 10)], [thing(0, 10, score=0.49)], (0, 1, 0, 0.0)),
    "another class": ([thing(0, 10)], [thing(0, 10, category=2, score=0.9)], (0, 1, 1, 0.0)),
    "detected twice": ([thing(0, 10)], [thing(0, 10, score=0.6), thing(0, 9, score=0.9)], (1, 0, 1, 2 / 3)),
    "two of three": (
        [thing(0, 10), thing(12, 10), thing(24, 10)],
        [thing(0, 10, score=0.6), thing(12, 10, score=0.9)],
        (2, 1, 0, 0.8),
    ),
    "the higher score chooses first, the larger overlap": (
        [thing(0, 10), thing(4, 10)],  # the first result fits both, the second only the second
        [thing(1, 10, score=0.9), thing(5, 10, score=0.6)],
        (2, 0, 0, 1.0),
    ),
    "in a crowd": ([thing(0, 30, iscrowd=1)], [thing(3, 5, score=0.9), thing(9, 5, score=0.8)], (0, 0, 0, 1.0)),
    "half in a crowd": ([thing(0, 10, iscrowd=1)], [thing(5, 10, score=0.9)], (0, 0, 0, 1.0)),
    "less in a crowd": ([thing(0, 10, iscrowd=1)], [thing(6, 10, score=0.9)], (0, 0, 1, 0.0)),
    "in a crowd of others": ([thing(0, 30, category=2, iscrowd=1)], [thing(3, 5, score=0.9)], (0, 0, 1, 0.0)),
}


@pytest.mark.parametrize(("annotations", "results", "expected"), CASES.values(), ids=CASES)
def test_true_positives_false_negatives_and_false_positives(annotations: list, results: list, expected: tuple) -> None:
    match = match_image(IMAGE, annotations, results)
    counts = match.true_positives, match.false_negatives, match.false_positives
    assert (*counts, match.f1) == pytest.approx(expected)


def test_each_object_and_detection_has_its_status() -> None:
    objects = [thing(0, 10, id=1), thing(20, 10, id=2), thing(30, 9, id=3, iscrowd=1)]
    results = [thing(31, 5, score=0.6), thing(13, 6, score=0.7), thing(20, 10, score=0.8), thing(0, 10, score=0.1)]
    match = match_image(IMAGE, objects, results)
    assert [(entry["id"], is_matched) for entry, is_matched in zip(match.objects, match.is_matched, strict=True)] == [
        (1, False),
        (2, True),
    ]
    assert [entry["id"] for entry in match.crowds] == [3]
    assert [(entry["score"], status) for entry, status in zip(match.detections, match.statuses, strict=True)] == [
        (0.8, "TP"),
        (0.7, "FP"),
        (0.6, "crowd"),
    ]


def test_images_with_errors_are_sorted_by_f1_then_by_number_of_errors() -> None:
    half = match_image(IMAGE | {"id": 1}, [thing(0, 5), thing(20, 5)], [thing(0, 5, score=1.0)])
    bad = match_image(IMAGE | {"id": 2}, [thing(0, 5)], [])
    worse = match_image(IMAGE | {"id": 3}, [thing(0, 5)], [thing(9, 5, score=1.0)])
    right = match_image(IMAGE | {"id": 4}, [thing(0, 5)], [thing(0, 5, score=1.0)])
    again = match_image(IMAGE | {"id": 0}, [thing(0, 5)], [])
    assert [match.image["id"] for match in worst_first([half, bad, right, worse, again])] == [3, 0, 2, 1]


def counts_of_the_coco_api(content: Content, results: list[Content]) -> dict[int, tuple[int, int, int]]:
    """Return true positives, false negatives and false positives of each image."""
    masks = [
        {key: value for key, value in one.items() if key != "bbox"} for one in results if one["score"] >= MIN_SCORE
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(masks)), "segm")
        evaluation.params.iouThrs = np.array([MIN_IOU])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [1000]
        evaluation.evaluate()
    counts = {image["id"]: (0, 0, 0) for image in content["images"]}
    for one in filter(None, evaluation.evalImgs):
        detected, real = one["dtMatches"][0] > 0, ~one["gtIgnore"].astype(bool)
        counted = ~one["dtIgnore"][0].astype(bool)
        parts = (detected & counted).sum(), ((one["gtMatches"][0] == 0) & real).sum(), (~detected & counted).sum()
        counts[one["image_id"]] = tuple(a + int(b) for a, b in zip(counts[one["image_id"]], parts, strict=True))
    return counts


def agree(content: Content, results: list[Content]) -> dict[int, tuple[int, int, int]]:
    matches = match_images(content, results, [image["id"] for image in content["images"]])
    ours = {
        match.image["id"]: (match.true_positives, match.false_negatives, match.false_positives) for match in matches
    }
    assert ours == counts_of_the_coco_api(content, results)
    return ours


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with numpy 2
def test_counts_agree_with_the_coco_api() -> None:
    content = Scenes(23).coco_annotations()
    counts = agree(content, shaken(content))
    assert all(sum(column) > 5 for column in zip(*counts.values(), strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_counts_agree_with_the_coco_api_on_coco_images_with_crowds(data_root: Path) -> None:
    content = read_annotations(data_root / "coco-mini/annotations/instances_train2017.json")
    crowds = [
        {**one, "score": 0.9, "segmentation": compressed(content, one)}
        for one in content["annotations"]
        if one["iscrowd"]
    ]
    assert len(crowds) == 25
    agree(content, shaken(content) + crowds)
    matches = match_images(content, as_results(content) + crowds, [image["id"] for image in content["images"]])
    assert not worst_first(matches), "detections in crowds are ignored"


def compressed(content: Content, annotation: Content) -> Content:
    from gcnet.tasks.detection.coco_metrics import compressed as compress

    image = next(image for image in content["images"] if image["id"] == annotation["image_id"])
    return compress(annotation["segmentation"], image["height"], image["width"])


def test_only_the_given_images_are_matched() -> None:
    content = Scenes(5).coco_annotations()
    matches = match_images(content, as_results(content), [2, 4])
    assert [(match.image["id"], match.true_positives) for match in matches] == [(2, 6), (4, 6)]
