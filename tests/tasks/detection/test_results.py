"""Files of results are read as they are, and what cannot be judged in them is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from gcnet.data.coco.values import Ids
from gcnet.data.scenes import Scenes
from gcnet.errors import UserError
from gcnet.tasks.detection.coco_metrics import evaluate_detections
from gcnet.tasks.detection.metrics import score_detections
from gcnet.tasks.detection.results import read_detections
from tasks.shaken import as_results, shaken

CONTENT = Scenes(3).coco_annotations()
MASK = {"size": [64, 64], "counts": [10, 20, 64 * 64 - 30]}
RESULT = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5, "segmentation": MASK}


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    for results in (shaken(CONTENT), as_results(CONTENT), [RESULT], []):
        assert read_detections(written(tmp_path, results), CONTENT) == (results, 0)


def test_masks_may_be_polygons_or_empty_and_boxes_of_no_size(tmp_path: Path) -> None:
    polygon = {**RESULT, "segmentation": [[3, 3, 20, 3, 20, 9.5]]}
    empty = {**RESULT, "segmentation": {"size": [64, 64], "counts": [64 * 64]}, "bbox": [0, 0, 0, 0]}
    read, _ = read_detections(written(tmp_path, [polygon, empty]), CONTENT)
    assert read == [polygon, empty]
    assert evaluate_detections(CONTENT, read, kind="segm").numbers["AP"] == 0.0


def test_polygons_over_the_edge_stay_as_they_are(tmp_path: Path) -> None:
    over = {**RESULT, "segmentation": [[3, 3, 90, 3, 90, 9]]}
    assert read_detections(written(tmp_path, [over]), CONTENT)[0][0]["segmentation"] == [[3, 3, 90, 3, 90, 9]]


def test_results_may_be_boxes_only(tmp_path: Path) -> None:
    results = [{name: value for name, value in one.items() if name != "segmentation"} for one in shaken(CONTENT)]
    read, _ = read_detections(written(tmp_path, results), CONTENT)
    assert read == results
    judged = score_detections(CONTENT, read, [1, 2, 3])
    expected = evaluate_detections(CONTENT, shaken(CONTENT), kind="bbox")
    assert (judged.masks, judged.boxes.numbers) == (None, expected.numbers)


def test_predictions_are_matched_by_file_and_class_name(tmp_path: Path) -> None:
    names = {image["id"]: image["file_name"] for image in CONTENT["images"]}
    images = [{"id": 9 - number, "file_name": f"/photos/val/{name}"} for number, name in names.items()]
    others = [{"id": 70 + one["id"], "name": one["name"]} for one in CONTENT["categories"]]
    found = [
        {**one, "image_id": 9 - one["image_id"], "category_id": 70 + one["category_id"]} for one in shaken(CONTENT)
    ]
    stray = {"id": 1, "file_name": "/photos/val/other.png"}, {**RESULT, "image_id": 1, "category_id": 71}
    content = {"images": [*images, stray[0]], "categories": others, "annotations": [*found, stray[1]]}
    read, _ = read_detections(written(tmp_path, content), CONTENT)
    assert read == shaken(CONTENT)
    twice = {**content, "images": [*images, {"id": 4, "file_name": f"b/{names[1]}"}]}
    strange = {**content, "categories": [{"id": 71, "name": "drak"}]}
    for wrong, sentence in (
        (twice, "has two images of the file name"),
        (strange, 'unknown class of the predictions "drak"'),
        ({**content, "images": [stray[0]]}, "none of its images is an annotated one, such as /photos/val/other.png"),
        ({**content, "categories": [{}]}, "is not a JSON file of gcnet predict: .*'id'.* is missing"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_detections(written(tmp_path, wrong), CONTENT)


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in RESULT.items() if name != key}


MISTAKES = {
    "no JSON": ("[1, 2", "is not JSON"),
    "annotations": ({"images": [], "info": {}}, "expected a list of results, found an object with images, info"),
    "no object": ([RESULT, 3], "result 2 should be an object, found 3"),
    "no score": ([without("score")], 'result 1 has no "score"'),
    "a mask of some only": ([RESULT, without("segmentation")], 'result 2 has no "segmentation"'),
    "an id that is no number": ([{**RESULT, "image_id": "1"}], "should have a whole number as \"image_id\", found '1'"),
    "a score that is no number": ([{**RESULT, "score": None}], "should have a number as its score, found None"),
    "a score that is NaN": ("[" + json.dumps(RESULT).replace("0.5", "NaN") + "]", "its score, found nan"),
    "three numbers": ([{**RESULT, "bbox": [1, 2, 3]}], "should have a bbox of left, top, width and height in pixels"),
    "negative width": ([{**RESULT, "bbox": [1, 2, -3, 4]}], r"in pixels, found \[1, 2, -3, 4\]"),
    "an unknown image": ([{**RESULT, "image_id": 9}], "result 1 is of image 9, which the annotations do not have"),
    "a mask of another image": (
        [{**RESULT, "segmentation": {"size": [9, 9], "counts": [81]}}],
        r"has a mask that cannot be evaluated \(RLE size mismatch\): size \[9, 9\] in an image of \[64, 64\]",
    ),
    "a mask that ends early": (
        [{**RESULT, "segmentation": {"size": [64, 64], "counts": "11"}}],
        r"\(invalid RLE\): runs cover 2 of 4,096 pixels",
    ),
    "a mask that is none": ([{**RESULT, "segmentation": 3}], r"\(unknown segmentation\)"),
    "a line": ([{**RESULT, "segmentation": [[1, 2, 3, 4]]}], r"\(polygon of fewer than three points\): 4 coordinates"),
}


@pytest.mark.parametrize(("content", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_annotations_that_cannot_be_evaluated_are_named(tmp_path: Path, content: Any, sentence: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=sentence) as caught:
        read_detections(path, CONTENT)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_is_named_with_its_nearest(tmp_path: Path) -> None:
    written(tmp_path, [])
    with pytest.raises(UserError, match=r"no results file at .*; did you mean \".*results\.json\""):
        read_detections(tmp_path / "result.json", CONTENT)
    with pytest.raises(UserError, match="cannot read"):
        read_detections(tmp_path, CONTENT)


def test_results_name_images_as_the_file_does_and_those_of_skipped_images_do_not_count(tmp_path: Path) -> None:
    image_ids = Ids(["a", "1", "gone"])  # 2, 1 and 3
    results = [{**RESULT, "image_id": "1"}, {**RESULT, "image_id": "gone"}]
    content = {**CONTENT, "images": [image for image in CONTENT["images"] if image["id"] == 1]}
    read, skipped = read_detections(written(tmp_path, results), content, image_ids)
    assert (read, skipped) == ([{**RESULT, "image_id": 1}], 1)
