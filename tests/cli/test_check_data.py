"""`gcnet check-data`: what it says, writes and answers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcnet.cli import main
from gcnet.data.scenes import Scenes


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with four generated images, images/, and their annotations, good.json and bad.json."""
    Scenes(4).write_coco(tmp_path / "images", tmp_path / "good.json")
    content = json.loads((tmp_path / "good.json").read_text())
    for annotation in content["annotations"][:7]:
        annotation |= {"bbox": [1, 2, 0, 4], "segmentation": []}
    content["annotations"][9]["category_id"] = 99
    (tmp_path / "bad.json").write_text(json.dumps(content))
    return tmp_path


def check(place: Path, *arguments: str) -> int:
    return main(["check-data", *arguments, "--images", str(place / "images")])


def test_clean_data_end_with_0(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(place, str(place / "good.json")) == 0
    printed = capsys.readouterr().out
    assert "images       4, 4 usable, 0 of these without an object" in printed
    assert "annotations  24, 24 usable, 24 of these with a mask, 0 crowds" in printed
    assert "issues       0\n" in printed


def test_issues_end_with_1_and_are_listed_by_kind(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(place, str(place / "bad.json"), "--max-listed", "2") == 1
    printed = capsys.readouterr().out
    assert "issues       8 of 2 kinds" in printed
    assert "neither bbox nor mask: 7 (skipped: skip the annotation)" in printed
    assert "  image 1 (000000.png), annotation 2: bbox [1, 2, 0, 4] in 64 x 64 pixels\n  and 5 more\n" in printed
    assert "image 2 (000001.png), annotation 10: category_id 99" in printed


def test_the_cleaned_copy_is_clean_and_the_original_untouched(place: Path) -> None:
    before = (place / "bad.json").read_bytes()
    assert check(place, str(place / "bad.json"), "--fix", str(place / "new" / "fixed.json")) == 1
    assert check(place, str(place / "new" / "fixed.json")) == 0
    assert (place / "bad.json").read_bytes() == before
    assert len(json.loads((place / "new" / "fixed.json").read_text())["annotations"]) == 24 - 8


def test_the_output_holds_all_issues_and_two_pictures(place: Path) -> None:
    assert check(place, str(place / "bad.json"), "--output", str(place / "out")) == 1
    assert sorted(path.name for path in (place / "out").iterdir()) == ["images.png", "issues.json", "labels.png"]
    found = json.loads((place / "out" / "issues.json").read_text())
    assert found["counts"] == {"images": 4, "annotations": 24, "categories": 3}
    assert sorted(issue["annotation_id"] for issue in found["issues"]) == [1, 2, 3, 4, 5, 6, 7, 10]
    for name in ("images.png", "labels.png"):
        with Image.open(place / "out" / name) as picture:
            assert min(picture.size) > 200


def test_without_images_only_the_annotations_are_checked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", str(place / "good.json"), "--output", str(place / "out")]) == 0
    assert "image files not checked; pass --images" in capsys.readouterr().err
    assert not (place / "out" / "images.png").exists()


def test_of_a_folder_all_annotation_files_are_checked_with_their_images(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place / "coco"
    for split, name in (("train", "good.json"), ("val", "bad.json")):
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        (place / name).rename(folder / "annotations" / f"instances_{split}.json")
        shutil.copytree(place / "images", folder / split)
    (folder / "train" / "000001.png").write_bytes(b"")
    assert main(["check-data", str(folder), "--output", str(place / "out")]) == 1
    printed = capsys.readouterr()
    assert "unreadable image: 1" in printed.out
    assert "neither bbox nor mask: 7" in printed.out
    assert printed.err == ""
    assert sorted(path.name for path in (place / "out").iterdir()) == [
        "annotations-instances_train",
        "annotations-instances_val",
    ]
    assert main(["check-data", str(folder), "--fix", str(place / "fixed.json")]) == 2
    assert "--fix takes one annotation file" in capsys.readouterr().err


def test_a_folder_whose_images_are_missing_is_not_clean(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "coco").mkdir()
    (place / "good.json").rename(place / "coco" / "train.json")
    assert main(["check-data", str(place / "coco")]) == 1
    printed = capsys.readouterr()
    assert "issues       0" in printed.out
    assert "image files not checked: " in printed.err
    assert 'the first is "000000.png"; --images names their folder' in printed.err


def test_a_copy_of_nothing_is_not_written_and_the_reason_comes_first(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((place / "good.json").read_text())
    for annotation in content["annotations"]:
        annotation["category_id"] = 77
    (place / "bad.json").write_text(json.dumps(content))
    assert check(place, str(place / "bad.json"), "--fix", str(place / "fixed.json")) == 2
    sentence = "none of the 24 annotations can be used (skipped: 24 x unknown category)"
    assert sentence in capsys.readouterr().err
    assert not (place / "fixed.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("goood.json",), "good.json"),
        (("good.json", "--images", "image"), 'did you mean "images"?'),
        (("good.json", "--fix", "bad.json"), "--fix must not exist yet, found bad.json"),
        (("labels.txt",), "takes an annotation file (.json), a folder or a CSV, found labels.txt; labels of YOLO"),
        (("good.json", "--workers", "0"), "--workers must be 1 or more"),
        (
            (),
            "gcnet check-data needs DATA: annotation file (JSON), folder of class folders, or CSV",
        ),
    ],
)
def test_a_usage_error_is_one_sentence(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(place)
    (place / "labels.txt").write_text("0 .5 .5 .1 .1")
    assert main(["check-data", *arguments]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("\n") == 1


def test_class_folders_are_checked_with_a_report_and_a_contact_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        for name, value in (("cat", 10), ("dog", 200)):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            Image.new("RGB", (9, 7), (value, len(split), 0)).save(tmp_path / "photos" / split / name / "a.png")
    assert main(["check-data", str(tmp_path / "photos"), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "train  2 images, 2 classes (1 each)\n       all 9 x 7 pixels; 2 RGB\n" in printed
    assert "issues  0\n" in printed
    assert json.loads((tmp_path / "out" / "report.json").read_text())["splits"]["val"]["sizes"] == {"9x7": 2}
    with Image.open(tmp_path / "out" / "images.png") as picture:
        assert min(picture.size) > 170
        below = np.asarray(picture.convert("L"))[190:]
    dark = (below < 150).any(axis=1)
    assert np.count_nonzero(dark[1:] & ~dark[:-1]) == 3, "lines of text: class, file name, caption"
    (tmp_path / "photos" / "train" / "empty").mkdir()
    assert main(["check-data", str(tmp_path / "photos")]) == 1
    assert "imbalance" not in capsys.readouterr().out, "no weights make up for a class without images"
    (tmp_path / "photos" / "train" / "empty").rmdir()
    (tmp_path / "photos" / "val" / "cat" / "a.png").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert main(["check-data", str(tmp_path / "photos")]) == 1
    assert "val/cat/a.png: a Git LFS pointer" in capsys.readouterr().out
    assert main(["check-data", str(tmp_path / "photos"), "--fix", str(tmp_path / "x.json")]) == 2
    assert "--fix is only for annotations" in capsys.readouterr().err
