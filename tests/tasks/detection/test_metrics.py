"""COCO's twelve numbers are those of the COCO API; what is fed back scores one; results are what was detected."""

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gcnet.data.coco.inspection import read_annotations
from gcnet.data.coco.masks import runs_mask
from gcnet.data.scenes import Scenes
from gcnet.errors import UserError
from gcnet.tasks.detection.coco_metrics import DEFINITIONS, NUMBERS, coco_results, evaluate_detections
from tasks.shaken import as_results, shaken

Content = dict[str, Any]


def by_the_coco_api(content: Content, results: list[Content], kind: str, image_ids: list[int] | None) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        judged = [{key: value for key, value in one.items() if kind == "bbox" or key != "bbox"} for one in results]
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(judged)), kind)
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.fixture(scope="module")
def scenes() -> Content:
    return Scenes(11).coco_annotations()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with numpy 2
@pytest.mark.parametrize("image_ids", [None, [2, 3, 7]], ids=["all images", "some"])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_numbers_are_those_of_the_coco_api(scenes: Content, kind: str, image_ids: list[int] | None) -> None:
    results = shaken(scenes)
    found = evaluate_detections(scenes, results, kind=kind, image_ids=image_ids)
    expected = by_the_coco_api(scenes, results, kind, image_ids)
    for name, value in zip(NUMBERS, expected.stats, strict=True):
        assert found.numbers[name] == (None if value < 0 else pytest.approx(value, abs=1e-12)), name
    assert 0.01 < found.numbers["AP"] < 0.95
    assert found.numbers["APl"] is None, "no shape of these images is large"
    assert found.images == len(image_ids or scenes["images"])
    precision = expected.eval["precision"][:, :, :, 0, 2]
    np.testing.assert_allclose(found.precision, np.where(precision < 0, np.nan, precision), atol=1e-12)
    for number, category in enumerate(scenes["categories"]):
        values = precision[:, :, number]
        ap = found.per_class[category["name"]]
        assert ap == (pytest.approx(values.mean(), abs=1e-12) if (values >= 0).any() else None)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_negative_image_ids_are_as_good_as_others(scenes: Content, kind: str) -> None:
    content, results = copy.deepcopy(scenes), shaken(scenes)
    for one in content["images"]:
        one["id"] -= 6
    for one in [*content["annotations"], *results]:
        one["image_id"] -= 6
    for image_ids in (None, [-4, 1]):
        expected = by_the_coco_api(content, results, kind, image_ids)
        found = evaluate_detections(content, results, kind=kind, image_ids=image_ids)
        assert list(found.numbers.values()) == [None if one < 0 else pytest.approx(one) for one in expected.stats]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_on_genuine_images_with_crowds_they_are_too_and_the_truth_scores_one(data_root: Path, kind: str) -> None:
    content = read_annotations(data_root / "coco-mini/annotations/instances_val2017.json")
    results = shaken(content)
    found = evaluate_detections(content, results, kind=kind)
    for name, value in zip(NUMBERS, by_the_coco_api(content, results, kind, None).stats, strict=True):
        assert found.numbers[name] == pytest.approx(value, abs=1e-12), name
    perfect = evaluate_detections(content, as_results(content), kind=kind)
    assert perfect.numbers["AP"] == perfect.numbers["AP75"] == pytest.approx(1.0)
    assert all(ap is None or ap == pytest.approx(1.0) for ap in perfect.per_class.values())


def test_each_number_is_defined() -> None:
    for name, definition in zip(NUMBERS, DEFINITIONS, strict=True):
        assert definition.startswith({"AP": "precision", "AR": "recall"}[name[:2]]), name


def test_no_results_at_all_score_zero(scenes: Content) -> None:
    found = evaluate_detections(scenes, [])
    assert found.numbers["AP"] == 0
    assert found.images == 11


def test_neither_annotations_nor_results_are_changed(scenes: Content) -> None:
    content, results = copy.deepcopy(scenes), shaken(scenes)
    before = json.dumps([content, results])
    evaluate_detections(content, results, kind="segm")
    assert json.dumps([content, results]) == before


def test_results_are_what_was_detected() -> None:
    masks = torch.zeros(2, 1, 7, 11)
    masks[0, 0, 2:4, 3:9] = 0.5
    masks[1, 0, 0, 0] = 0.49
    found = {
        "boxes": torch.tensor([[1.5, 2.0, 9.0, 4.25], [0.0, 0.0, 1.0, 1.0]]),
        "labels": torch.tensor([2, 1]),
        "scores": torch.tensor([0.75, 0.5]),
        "masks": masks,
    }
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}
    first, second = coco_results([nothing, found], [4, 17], [31, 90])
    assert {key: first[key] for key in ("image_id", "category_id", "bbox", "score")} == {
        "image_id": 17,
        "category_id": 90,
        "bbox": [1.5, 2.0, 7.5, 2.25],
        "score": 0.75,
    }
    assert first["segmentation"]["size"] == [7, 11]
    assert np.array_equal(runs_mask(first["segmentation"]["counts"], 7, 11), masks[0, 0].numpy() >= 0.5)
    assert not runs_mask(second["segmentation"]["counts"], 7, 11).any()
    json.dumps([first, second])


RESULT = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
MISTAKES = {
    "kind": ({"kind": "boxes"}, [RESULT], 'unknown kind "boxes"'),
    "image": ({}, [{**RESULT, "image_id": 99}], "result 1 is of image 99"),
    "category": ({}, [RESULT, {**RESULT, "category_id": 0}], "result 2 is of category 0"),
    "no score": ({}, [{key: value for key, value in RESULT.items() if key != "score"}], 'result 1 has no "score"'),
    "mask of another size": (
        {"kind": "segm"},
        [{**RESULT, "segmentation": {"size": [10**6, 10**6], "counts": "0"}}],
        r"result 1 has a mask of size \[1000000, 1000000\] in an image of \[64, 64\]",
    ),
    "no mask": ({"kind": "segm"}, [RESULT], 'result 1 has no "segmentation", which is needed to evaluate segm'),
}


@pytest.mark.parametrize(("options", "results", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_invalid_results_are_refused(scenes: Content, options: Content, results: list, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        evaluate_detections(scenes, results, **options)


def test_annotations_without_masks_or_categories_are_refused(scenes: Content) -> None:
    with pytest.raises(UserError, match="some annotations have no segmentation; evaluate bbox"):
        evaluate_detections({**scenes, "annotations": [{**RESULT, "id": 1}]}, [], kind="segm")
    with pytest.raises(UserError, match="no category"):
        evaluate_detections({**scenes, "categories": []}, [])
