"""The sample data sets have the layout that the commands expect, and are the same for the same seed."""

import json
from pathlib import Path

import pytest
from PIL import Image

from gcnet import cli
from gcnet.data.coco.open import open_coco
from gcnet.data.images.open import open_data
from gcnet.data.sample_data import PHOTO_CLASSES, PHOTOS, SAMPLES, write_coco, write_photos
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_photos_are_class_folders_of_both_splits(tmp_path: Path) -> None:
    count = write_photos(tmp_path / "photos")
    splits = open_data(DataSettings(data=str(tmp_path / "photos")))
    assert splits.classes == PHOTO_CLASSES
    assert (len(splits.train), len(splits.val)) == (4 * PHOTOS["train"], 4 * PHOTOS["val"])
    assert count == len(splits.train) + len(splits.val)


def test_photos_of_a_seed_are_always_the_same_and_no_two_are_equal(tmp_path: Path) -> None:
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        write_photos(tmp_path / name, seed=seed)
    first, second, other = (contents(tmp_path / name) for name in ("first", "second", "other"))
    assert first == second
    assert len(set(first.values()) | set(other.values())) == len(first) + len(other)


def test_coco_data_opens_without_an_issue(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    train, val = open_coco(DataSettings(data=str(tmp_path / "coco")))
    assert (len(train.images), len(val.images)) == (24, 8)
    assert train.issue_report() is None
    content = json.loads((tmp_path / "coco" / "annotations" / "instances_val.json").read_text())
    for image in content["images"]:
        with Image.open(tmp_path / "coco" / "val" / image["file_name"]) as file:
            assert file.size == (image["width"], image["height"])


@pytest.mark.parametrize("name", SAMPLES)
def test_a_folder_with_files_is_never_written_to(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=r"new or empty folder, found .*; choose another"):
        SAMPLES[name](tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command_writes_a_folder_of_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sample-data", "coco"]) == 0
    assert capsys.readouterr().out == "wrote 32 generated images to coco\n"
    assert (tmp_path / "coco" / "annotations" / "instances_train.json").is_file()
    assert cli.main(["sample-data"]) == 2
    assert "gcnet sample-data needs {photos,coco}: photos" in capsys.readouterr().err
