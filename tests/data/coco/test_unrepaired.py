"""The annotations as pycocotools loads them, for evaluation on the file as it was published."""

import copy
from typing import Any

import pytest

from gcnet.data.coco.inspection import load_unrepaired
from gcnet.errors import UserError
from gcnet.tasks.detection.coco_metrics import NUMBERS, evaluate_detections
from tasks.random_coco import Content, as_pycocotools, pycocotools_numbers, random_file

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def file_with_masks() -> tuple[Content, list[Content]]:
    """A random file whose annotations have areas and masks."""
    for seed in range(100):
        content, results = random_file(seed)
        annotations = content["annotations"]
        if len(annotations) > 3 and len(results) > 3 and all(one["segmentation"] for one in annotations):
            return as_pycocotools(content).dataset, results
    raise AssertionError("no such file")


def repeat_annotation(content: Content) -> None:
    content["annotations"].append({**content["annotations"][0], "id": 999})


def repeat_annotation_id(content: Content) -> None:
    content["annotations"][0]["id"] = content["annotations"][1]["id"]


def annotation_of_nothing(content: Content) -> None:
    content["annotations"][0]["category_id"] = 77
    content["annotations"][1]["image_id"] = 7777


def annotation_of_nothing_beside_an_image_0(content: Content) -> None:
    """No image and no category of an unknown id must stand for those of id 0."""
    image, category = content["images"][0]["id"], content["categories"][0]["id"]
    for one in content["annotations"]:
        one["image_id"] = 0 if one["image_id"] == image else one["image_id"]
        one["category_id"] = 0 if one["category_id"] == category else one["category_id"]
    content["images"][0]["id"] = content["categories"][0]["id"] = 0
    content["annotations"].append({**content["annotations"][0], "id": 998, "image_id": 7777})
    content["annotations"].append({**content["annotations"][0], "id": 999, "category_id": 7777})


def box_of_no_size(content: Content) -> None:
    content["annotations"][0]["bbox"] = [3, 3, 0, 0]


def box_elsewhere(content: Content) -> None:
    content["annotations"][0]["bbox"] = [900, 900, 5, 5]


def corners(content: Content) -> None:
    for one in content["annotations"]:
        left, top, width, height = one["bbox"]
        one["bbox"] = [left, top, left + width, top + height]


def odd_areas(content: Content) -> None:
    content["annotations"][0]["area"], content["annotations"][1]["area"] = 0, 1e6


@pytest.mark.parametrize(
    "change",
    [
        repeat_annotation,
        repeat_annotation_id,
        annotation_of_nothing,
        annotation_of_nothing_beside_an_image_0,
        box_of_no_size,
        box_elsewhere,
        corners,
        odd_areas,
    ],
)
def test_metrics_of_unrepaired_annotations_equal_those_of_pycocotools(change: Any) -> None:
    content, results = file_with_masks()
    content["images"][0]["file_name"] = content["images"][0]["id"]  # which pycocotools does not look at
    first = content["images"][0]["id"], content["categories"][0]["id"]
    change(content)
    image_id, category_id = content["images"][0]["id"], content["categories"][0]["id"]
    for result in results:
        result["image_id"] = image_id if result["image_id"] == first[0] else result["image_id"]
        result["category_id"] = category_id if result["category_id"] == first[1] else result["category_id"]
    before = copy.deepcopy(content)
    loaded, *_ = load_unrepaired(content, "a.json")
    assert content == before
    assert all(isinstance(image["file_name"], str) for image in loaded["images"])
    for kind in ("bbox", "segm"):
        reference = pycocotools_numbers(as_pycocotools(content), results, kind)
        ours = evaluate_detections(loaded, results, kind=kind).numbers
        for name, value in zip(NUMBERS, reference, strict=True):
            assert ours[name] == pytest.approx(None if value < 0 else value, abs=1e-12), (kind, name)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"area": None}, "has area None"),
        ({"iscrowd": "0"}, "has iscrowd '0'"),
        ({"id": "a"}, "annotation 'a' has an id that is not an integer"),
        ({"bbox": [1, 2, 3]}, r"has bbox \[1, 2, 3\]"),
        ({"segmentation": [[1, 2, 3, 4]]}, "has an invalid mask"),
    ],
)
def test_annotations_that_pycocotools_cannot_evaluate_are_errors(values: Content, sentence: str) -> None:
    content, _ = file_with_masks()
    content["annotations"][2].update(values)
    with pytest.raises(UserError, match=rf"a\.json cannot be evaluated with `repair=False`: .*{sentence}"):
        load_unrepaired(content, "a.json")


def test_images_without_a_size_are_refused() -> None:
    content, _ = file_with_masks()
    del content["images"][0]["width"]
    with pytest.raises(UserError, match="has width None"):
        load_unrepaired(content, "a.json")
    content["images"][0]["width"] = 2**70
    with pytest.raises(UserError, match="pixels"):
        load_unrepaired(content, "a.json")
