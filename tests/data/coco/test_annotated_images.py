import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gcnet.data.coco.annotated_images import CocoImages, FolderReader
from gcnet.data.coco.inspection import read_annotations
from gcnet.data.coco.open import is_coco, open_coco, open_validation
from gcnet.data.decode import ImageError
from gcnet.data.scenes import Scenes
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError

SQUARE = [1.0, 2.0, 5.0, 2.0, 5.0, 6.0, 1.0, 6.0]


def content(**more: Any) -> dict[str, Any]:
    annotation = {"image_id": 7, "iscrowd": 0, "bbox": [1.0, 2.0, 4.0, 4.0], "area": 16.0, "segmentation": [SQUARE]}
    return {
        "images": [
            {"id": 9, "file_name": "empty.png", "width": 8, "height": 10},
            {"id": 7, "file_name": "full.png", "width": 8, "height": 10},
        ],
        "categories": [{"id": 30, "name": "pear"}, {"id": 4, "name": "apple"}],
        "annotations": [
            {"id": 1, "category_id": 30, **annotation},
            {"id": 2, "category_id": 4, **annotation},
            {"id": 3, "category_id": 4, **annotation, "iscrowd": 1},
        ],
        **more,
    }


def nothing(entry: object) -> Image.Image:
    raise AssertionError(entry)


def test_labels_count_from_1_in_the_order_of_the_category_ids_and_crowds_are_no_objects():
    images = CocoImages(content(), nothing)
    assert images.classes == ("apple", "pear")
    assert images.category_ids == (4, 30)
    objects = images.objects(1)
    assert objects.labels.tolist() == [2, 1]
    assert objects.boxes.tolist() == [[1, 2, 5, 6]] * 2
    expected = np.zeros((10, 8), dtype=np.uint8)
    expected[2:6, 1:5] = 1
    assert objects.masks.dense().tolist() == [expected.tolist()] * 2


def test_an_image_without_objects_has_empty_tensors_of_the_right_shape():
    objects = CocoImages(content(), nothing).objects(0)
    assert objects.boxes.shape == (0, 4)
    assert objects.labels.shape == (0,)
    assert objects.masks.dense().shape == (0, 10, 8)


def test_images_without_objects_can_be_skipped_and_limited():
    images = CocoImages(content(), nothing)
    assert [images.with_objects().name(i) for i in range(len(images.with_objects()))] == ["full.png"]
    assert images.limited(1).name(0) == "empty.png"
    assert images.limited(5) is images
    assert images.subset([1]).subset([0]).image_id(0) == 7


def test_an_image_of_another_size_than_stated_is_refused(tmp_path: Path):
    Image.new("RGB", (10, 8)).save(tmp_path / "full.png")
    with pytest.raises(ImageError, match="it has 10 x 8 pixels, its annotations have 8 x 10"):
        CocoImages(content(), FolderReader(tmp_path, content()["images"])).read(1)


def write(root: Path, *, suffix: str = "2017", places: tuple[str, str] = ("", "")) -> None:
    for split, place in zip(("train", "val"), places, strict=True):
        annotations = root / "annotations" / f"instances_{split}{suffix}.json"
        Scenes(3, split=split).write_coco(root / place / f"{split}{suffix}", annotations)


def test_a_folder_laid_out_as_coco_publishes_its_own_is_found(tmp_path: Path):
    write(tmp_path, places=("", "images"))
    assert is_coco(tmp_path)
    train, val = open_coco(DataSettings(data=str(tmp_path), limit_train=2))
    assert (len(train.images), len(val.images)) == (2, 3)
    assert train.issue_report() is None
    assert val.place == str(tmp_path / "annotations" / "instances_val2017.json")
    assert set(val.images.files()) == {
        str(tmp_path / "images" / "val2017" / name) for name in map(val.images.name, range(3))
    }


def test_an_annotation_file_alone_is_a_part(tmp_path: Path):
    write(tmp_path)
    part = open_validation(DataSettings(data=str(tmp_path / "annotations" / "instances_train2017.json")))
    assert part.images.read(0).size == (64, 64)


def test_missing_and_ambiguous_files_are_named(tmp_path: Path):
    with pytest.raises(UserError, match="no COCO annotation file for train: looked for .*; found nothing"):
        open_coco(DataSettings(data=str(tmp_path)))
    write(tmp_path)
    (tmp_path / "annotations" / "instances_train2014.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"found 2: .*instances_train2014.json, .*instances_train2017.json; use `data` FILE"
    ):
        open_coco(DataSettings(data=str(tmp_path)))
    (tmp_path / "annotations" / "instances_train2014.json").unlink()
    (tmp_path / "val2017").rename(tmp_path.parent / "elsewhere")
    with pytest.raises(UserError, match=r"instances_val2017.json: none of the images is found in .*; the first is"):
        open_coco(DataSettings(data=str(tmp_path)))


def change(path: Path, **more: Any) -> None:
    path.write_text(json.dumps(read_annotations(path) | more))


def test_issues_are_reported_with_their_ids(tmp_path: Path):
    write(tmp_path)
    path = tmp_path / "annotations" / "instances_train2017.json"
    annotations = read_annotations(path)["annotations"]
    annotations[0] |= {"bbox": [3.0, 3.0, 0.0, 5.0], "segmentation": []}
    change(path, annotations=annotations)
    train, _ = open_coco(DataSettings(data=str(tmp_path)))
    assert len(train.images.annotations(0)) == len(annotations) // 3 - 1
    assert "skipped: 1 x neither bbox nor mask" in (train.issue_report() or "")
    assert "annotation 1" in (train.issue_report() or "")


def test_objects_with_and_without_a_mask_are_counted(tmp_path: Path):
    write(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    annotations = read_annotations(path)["annotations"]
    del annotations[4]["segmentation"]
    change(path, annotations=annotations)
    train, val = open_coco(DataSettings(data=str(tmp_path)))
    assert (train.mask_counts(), val.mask_counts()) == ((18, 18), (17, 18))


def test_other_categories_in_validation_are_refused(tmp_path: Path):
    write(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    categories = read_annotations(path)["categories"]
    categories[1]["name"] = "dim"
    change(path, categories=categories)
    with pytest.raises(UserError, match="they differ in dark, dim"):
        open_coco(DataSettings(data=str(tmp_path)))


def test_generated_scenes_are_detection_data_whose_classes_hang_on_the_reference():
    train, _ = open_coco(DataSettings(data="scenes", limit_train=12, limit_val=2))
    scenes = Scenes(12)
    assert train.images.classes == ("reference", "dark", "bright")
    found = set()
    for index in range(12):
        reference, *shapes = train.images.objects(index).labels.tolist()
        bright = scenes.instances(index)[0].brightness > 0.605
        assert (reference, set(shapes)) == (1, {3 if bright else 2})
        found.add(bright)
        assert torch.equal(train.images.objects(index).masks.dense().bool(), torch.from_numpy(scenes.masks(index)))
        assert np.array_equal(np.asarray(train.images.read(index)), np.asarray(scenes.read(index)))
    assert found == {False, True}


def test_in_the_control_setting_the_category_depends_on_the_shape_alone():
    train, _ = open_coco(DataSettings(data="scenes-control", limit_train=12, limit_val=2))
    scenes = Scenes(12, context=False)
    for index in range(12):
        assert int((train.images.objects(index).labels == 3).sum()) == scenes.label(index)


def test_dark_images_of_12_bits_are_reported(tmp_path: Path):
    for bits in (12, 16):
        Image.fromarray(np.full((5, 7), (1 << bits) - 1, dtype=np.uint16)).save(tmp_path / f"{bits}.png")
        image = {"id": 1, "file_name": f"{bits}.png", "width": 7, "height": 5}
        annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3], "iscrowd": 0, "area": 9}
        content = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "cat"}]}
        (tmp_path / f"{bits}.json").write_text(json.dumps(content))
    reports = [open_validation(DataSettings(data=str(tmp_path / f"{bits}.json"))).reports() for bits in (12, 16)]
    assert "16-bit images use 12 bits" in reports[0][0]
    assert reports[1] == []


def test_a_file_is_no_folder_of_images(tmp_path: Path):
    write(tmp_path)
    file = str(tmp_path / "annotations" / "instances_train2017.json")
    with pytest.raises(UserError, match="`images` takes a folder, but .*instances_train2017.json is a file"):
        open_validation(DataSettings(data=file, images=file))
