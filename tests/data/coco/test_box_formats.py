"""Polygons in fractions of the image's sides become pixels; those within one pixel of a small file stay."""

import copy
from typing import Any

import pytest

from gcnet.data.coco.inspection import inspect

Content = dict[str, Any]
WIDTH, HEIGHT = 40, 20


def rectangles(count: int) -> Content:
    """An image with rectangles, each with its mask as a polygon, at multiples of a quarter pixel."""
    annotations = []
    for number in range(count):
        left, top, width, height = 2.0 * number, 1.0 + number, 10.0 + number, 8.0
        corners = [left, top, left + width, top, left + width, top + height, left, top + height]
        annotations.append(
            {
                "id": number + 1,
                "image_id": 0,
                "category_id": 1,
                "bbox": [left, top, width, height],
                "segmentation": [corners],
                "area": width * height,
                "iscrowd": 0,
            }
        )
    image = {"id": 0, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
    return {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}


def fractions(values: list[float]) -> list[float]:
    return [value / (WIDTH, HEIGHT)[place % 2] for place, value in enumerate(values)]


def as_polygons(annotation: Content) -> None:
    annotation["segmentation"] = [fractions(annotation["segmentation"][0])]


def as_points(annotation: Content) -> None:
    values = fractions(annotation["segmentation"][0])
    annotation["segmentation"] = [list(point) for point in zip(values[::2], values[1::2], strict=True)]


def as_one_list(annotation: Content) -> None:
    annotation["segmentation"] = fractions(annotation["segmentation"][0])


def as_all(annotation: Content) -> None:
    as_polygons(annotation)
    annotation["bbox"] = fractions(annotation["bbox"])
    annotation["area"] /= WIDTH * HEIGHT


@pytest.mark.parametrize("change", [as_polygons, as_points, as_one_list, as_all])
def test_polygons_of_fractions_are_converted_and_reported_once(change: Any) -> None:
    original = rectangles(5)
    content = copy.deepcopy(original)
    for annotation in content["annotations"]:
        change(annotation)
    inspection = inspect(content)
    kinds = [issue.kind for issue in inspection.issues]
    assert kinds.count("polygons in another format") == 1
    assert ("boxes in another format" in kinds) == (change is as_all)
    for ours, true in zip(inspection.clean["annotations"], original["annotations"], strict=True):
        assert ours["segmentation"][0] == pytest.approx(true["segmentation"][0])
        assert ours["bbox"] == pytest.approx(true["bbox"])
        assert ours["area"] == pytest.approx(true["area"])
    assert inspect(inspection.clean).issues == ()


def test_two_polygons_within_one_pixel_are_not_fractions() -> None:
    content = rectangles(2)
    for annotation in content["annotations"]:
        as_polygons(annotation)
    clean = inspect(content).clean["annotations"]
    assert [one["segmentation"] for one in clean] == [one["segmentation"] for one in content["annotations"]]


def test_a_few_faulty_boxes_do_not_hide_the_format_of_the_others() -> None:
    content = rectangles(40)
    for annotation in content["annotations"]:
        number = annotation["id"] % 9
        left, top = 20.0 + number, 8.0 + number / 2
        annotation |= {"bbox": [left, top, left + 9, top + 7], "segmentation": []}
    content["annotations"][0]["bbox"] = [30, 10, 30, 10]
    box_format = inspect(content).box_format
    assert str(box_format) == "left, top, right, bottom (xyxy)"
