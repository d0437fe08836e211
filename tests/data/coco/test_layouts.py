"""The annotation files and image folders of the layouts that annotation tools write."""

import re
from pathlib import Path

import pytest

from data.coco.annotated import content, write_images, write_json, write_layout
from gcnet.cli import main
from gcnet.data.coco.annotated_images import CocoImages
from gcnet.data.coco.open import is_coco, open_coco, open_validation
from gcnet.data.settings import DataSettings
from gcnet.data.splits import split_in_name
from gcnet.errors import UserError

LAYOUTS = {
    "COCO": {
        "annotations/instances_train2017.json": ("train2017", ""),
        "annotations/instances_val2017.json": ("val2017", ""),
    },
    "annotations by split": {"annotations/train.json": ("train", ""), "annotations/val.json": ("val", "")},
    "CVAT": {
        "annotations/instances_Train.json": ("images/Train", ""),
        "annotations/instances_Validation.json": ("images/Validation", ""),
    },
    "CVAT, one folder": {
        "annotations/instances_Train.json": ("images", ""),
        "annotations/instances_Test.json": ("images", ""),
    },
    "Roboflow": {"train/_annotations.coco.json": ("train", ""), "valid/_annotations.coco.json": ("valid", "")},
    "FiftyOne": {"train/labels.json": ("train/data", ""), "validation/labels.json": ("validation/data", "")},
    "Detectron": {"train.json": ("images", ""), "val.json": ("images", "")},
    "one folder": {
        "annotations/instances_train.json": ("images", ""),
        "annotations/instances_val.json": ("images", ""),
    },
    "prefixed": {"coco_train.json": ("imgs", "imgs/"), "coco_val.json": ("imgs", "imgs/")},
    "beside the images": {"train.json": (".", ""), "test.json": (".", "")},
    "capitals": {"Annotations/TRAIN.json": ("Images/TRAIN", ""), "Annotations/VAL.json": ("Images/VAL", "")},
    "own words": {"my_training_set.json": ("photos", ""), "my_validation_set.json": ("photos", "")},
    "labelme2coco": {"train/dataset.json": ("train", ""), "val/dataset.json": ("val", "")},
    "annotations in a folder for each split": {
        "annotations/train/coco.json": ("images/train", ""),
        "annotations/val/coco.json": ("images/val", ""),
    },
    "VIA": {"train/via_export_coco.json": ("train", ""), "val/via_export_coco.json": ("val", "")},
}


def names(images: CocoImages) -> list[str]:
    return [Path(images.name(index)).name for index in range(len(images))]


def test_images_of_lvis_are_named_by_their_urls(tmp_path: Path) -> None:
    files = {"train": ["train2017/0.png", "train2017/1.png"], "val": ["val2017/2.png", "train2017/3.png"]}
    for split, paths in files.items():
        data = content(write_images(tmp_path, paths))
        for image in data["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/{image.pop('file_name')}"
        write_json(tmp_path / "annotations" / f"lvis_v1_{split}.json", data)
    for part, paths in zip(open_coco(DataSettings(str(tmp_path))), files.values(), strict=True):
        assert part.images.names() == paths and part.reports() == []
        assert [part.images.read(index).size for index in range(2)] == [(23, 17)] * 2
    unrepaired = open_validation(DataSettings(str(tmp_path)), repairs=False)
    assert unrepaired.images.names() == files["val"]


@pytest.mark.parametrize("files", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_tools_are_opened(tmp_path: Path, files: dict[str, tuple[str, str]]):
    write_layout(tmp_path, files)
    train, val = open_coco(DataSettings(str(tmp_path)))
    assert (names(train.images), names(val.images)) == (["0_0.png", "0_1.png", "0_2.png"], ["1_0.png", "1_1.png"])
    assert [part.images.read(1).size for part in (train, val)] == [(23, 17), (23, 17)]
    uses_test = any("test" in file.lower() for file in files)
    assert (train.reports(), len(val.reports())) == ([], int(uses_test))
    assert is_coco(tmp_path)
    assert names(open_validation(DataSettings(str(tmp_path))).images) == names(val.images)


SINGLE = {
    "Label Studio": {"result.json": ("images", "images/")},
    "CVAT default": {"annotations/instances_default.json": ("images", "")},
    "labelme2coco": {"dataset.json": (".", "")},
    "FiftyOne": {"labels.json": ("data", "")},
}


@pytest.mark.parametrize("files", SINGLE.values(), ids=SINGLE)
def test_one_annotation_file_is_split_by_image_or_refused(tmp_path: Path, files: dict[str, tuple[str, str]]):
    write_layout(tmp_path, files)
    for data in (tmp_path, tmp_path / next(iter(files))):
        with pytest.raises(UserError, match=r"training images only: use `val=FILE` .*, or .* `val_fraction=0\.2`"):
            open_coco(DataSettings(str(data)))
        train, val = open_coco(DataSettings(str(data), val_fraction=0.4))
        assert sorted(names(train.images) + names(val.images)) == ["0_0.png", "0_1.png", "0_2.png"]
        assert len(val.images) == 1
        assert "1 of 3 images of" in train.reports()[0]
        assert len(open_validation(DataSettings(str(data))).images) == 3


def test_the_split_depends_on_the_seed_alone_and_evaluation_sees_the_same(tmp_path: Path):
    write_json(tmp_path / "all.json", content(write_images(tmp_path, [f"{i}.png" for i in range(20)])))
    settings = DataSettings(str(tmp_path / "all.json"), val_fraction=0.25)
    found = [names(open_coco(settings, split_seed=seed)[1].images) for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 5
    assert names(open_validation(settings, split_seed=3).images) == found[0]


def test_a_file_of_validation_images_may_be_named(tmp_path: Path):
    write_layout(tmp_path, {"a.json": ("one", ""), "b.json": ("two", "")})
    train, val = open_coco(DataSettings(str(tmp_path / "a.json"), val=str(tmp_path / "b.json")))
    assert (len(train.images), len(val.images)) == (3, 2)
    with pytest.raises(UserError, match="`val` and `data` must differ"):
        open_coco(DataSettings(str(tmp_path / "a.json"), val=str(tmp_path / "a.json")))


def test_a_folder_of_validation_images_may_be_named(tmp_path: Path):
    write_layout(tmp_path, {"train/_annotations.coco.json": ("train", ""), "more/_annotations.coco.json": ("more", "")})
    train, val = open_coco(DataSettings(str(tmp_path / "train"), val=str(tmp_path / "more")))
    assert (len(train.images), len(val.images)) == (3, 2)


def test_the_image_folder_may_be_named_also_with_a_folder_for_each_split(tmp_path: Path):
    write_layout(tmp_path, {"a/train.json": ("x/train", ""), "a/val.json": ("x/val", "")})
    with pytest.raises(
        UserError, match=r"train\.json: none of the images is found in .*; the first is \"0_0\.png\"; `images`"
    ):
        open_coco(DataSettings(str(tmp_path / "a")))
    train, val = open_coco(DataSettings(str(tmp_path / "a"), images=str(tmp_path / "x")))
    assert [part.images.read(0).size for part in (train, val)] == [(23, 17), (23, 17)]
    with pytest.raises(UserError, match=r"`images` takes a folder, but there is none at .*z"):
        open_coco(DataSettings(str(tmp_path / "a"), images=str(tmp_path / "z")))


def test_images_of_another_split_are_not_taken(tmp_path: Path):
    write_layout(tmp_path, {"annotations/train.json": ("train", ""), "annotations/val.json": ("val", "")})
    for path in (tmp_path / "val").iterdir():
        path.rename(tmp_path / "train" / path.name)
    with pytest.raises(UserError, match=r"val\.json: none of the images is found"):
        open_coco(DataSettings(str(tmp_path)))


@pytest.mark.parametrize("folder", ["test_bench", "my-training", "validation of July", "val"])
def test_images_of_an_unrelated_folder_beside_are_not_taken(tmp_path: Path, folder: str):
    write_json(tmp_path / folder / "objects.json", content(["0.png", "1.png"]))
    write_images(tmp_path / "another project", ["0.png", "1.png"])
    with pytest.raises(UserError, match="none of the images is found"):
        open_validation(DataSettings(str(tmp_path / folder / "objects.json")))


@pytest.mark.parametrize("folder", ["val", "Valid", "val2017", "validation_1"])
@pytest.mark.parametrize("images", ["images", "images/val", "val2024", "."])
def test_images_next_to_the_folder_of_a_split_are_found(tmp_path: Path, folder: str, images: str):
    write_json(tmp_path / folder / "objects.json", content(["0.png", "1.png"]))
    write_images(tmp_path / images, ["0.png", "1.png"])
    assert names(open_validation(DataSettings(str(tmp_path / folder / "objects.json"))).images) == ["0.png", "1.png"]


def test_images_in_both_splits_are_reported(tmp_path: Path):
    shared = write_images(tmp_path / "images", ["a.png", "b.png"])
    write_json(tmp_path / "train.json", content(shared))
    write_json(tmp_path / "val.json", content(["b.png"]))
    val = open_coco(DataSettings(str(tmp_path)))[1]
    assert val.reports()[0].startswith("1 of 1 validation images are also training images, such as ")


def test_a_fraction_beside_validation_data_is_refused(tmp_path: Path):
    write_layout(tmp_path, LAYOUTS["Roboflow"])
    with pytest.raises(UserError, match="has validation data, .*valid.*: omit `val_fraction`"):
        open_coco(DataSettings(str(tmp_path), val_fraction=0.2))


def test_a_test_split_is_used_for_validation_if_nothing_else_is_named(tmp_path: Path):
    write_layout(tmp_path, {"train.json": ("images", ""), "test.json": ("images", "")})
    val = open_coco(DataSettings(str(tmp_path)))[1]
    assert len(val.images) == 2
    assert val.reports()[0].endswith(f"has no validation split: {tmp_path / 'test.json'} is used for validation")
    train, val = open_coco(DataSettings(str(tmp_path), val_fraction=0.3))
    assert (names(val.images)[0][0], len(train.images) + len(val.images)) == ("0", 3)


def test_other_files_of_coco_and_of_tools_are_passed_over(tmp_path: Path):
    write_layout(tmp_path, LAYOUTS["COCO"])
    write_json(tmp_path / "annotations/captions_train2017.json", content([]))
    write_json(tmp_path / "annotations/panoptic_val2017.json", content([]))
    write_json(tmp_path / "train2017/0_0.json", {"version": "5.0", "shapes": [], "imagePath": "0_0.png"})
    write_json(tmp_path / "results_train.json", [{"image_id": 1}])
    assert len(open_coco(DataSettings(str(tmp_path)))[0].images) == 3


@pytest.mark.parametrize(
    ("broken", "reason"),
    [("", "is empty"), ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"), ("{", "is not JSON")],
)
def test_a_broken_file_of_a_split_is_not_passed_over(tmp_path: Path, broken: str, reason: str):
    write_layout(tmp_path, LAYOUTS["Detectron"])
    (tmp_path / "val.json").write_text(broken)
    with pytest.raises(UserError, match=f"val.json {reason}"):
        open_coco(DataSettings(str(tmp_path)))


def test_annotations_in_deeper_folders_are_named_and_not_taken_for_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_layout(tmp_path, {"task_0/annotations/instances_default.json": ("task_0/images", "")})
    found = re.escape(str(tmp_path / "task_0/annotations/instances_default.json"))
    with pytest.raises(UserError, match=f"COCO annotations in subfolders, such as {found}: use `data=FILE`"):
        open_coco(DataSettings(str(tmp_path)))
    assert main(["check-data", str(tmp_path)]) == 2
    assert "COCO annotations in deeper folders" in capsys.readouterr().err


def test_a_folder_with_the_name_of_a_file_is_a_folder(tmp_path: Path):
    write_layout(tmp_path / "data.json", LAYOUTS["Detectron"])
    assert is_coco(tmp_path / "data.json")
    assert len(open_coco(DataSettings(str(tmp_path / "data.json")))[0].images) == 3


def test_an_error_on_an_unrecognized_folder_lists_its_files(tmp_path: Path):
    write_images(tmp_path, ["photos/a.png", "more/b.png"])
    expected = (
        "has no COCO annotation file for train: looked for annotations/instances_train*.json, annotations/train.json"
    )
    with pytest.raises(UserError, match=re.escape(expected) + ".*; found more, photos; folders of classes train cl"):
        open_coco(DataSettings(str(tmp_path)))
    assert not is_coco(tmp_path)


@pytest.mark.parametrize("name", ["annotations_trainval2017.zip", "annotations/instances_train2017.json.gz"])
def test_annotations_that_are_not_unpacked_are_named(tmp_path: Path, name: str):
    write_images(tmp_path, ["train2017/a.png"])
    write_json(tmp_path / name, {})
    with pytest.raises(UserError, match=rf"has no COCO annotation file for train: .*; unpack .*{name}"):
        open_coco(DataSettings(str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("instances_Train", "train"),
        ("instances_valminusminival2014", "val"),
        ("trainAnnotations", "train"),
        ("Validation", "val"),
        ("test-dev2017", "test"),
        ("valve", None),
        ("trainer", None),
        ("train_val", None),
        ("dataset", None),
    ],
)
def test_names_tell_their_split(name: str, split: str | None):
    assert split_in_name(name) == split
