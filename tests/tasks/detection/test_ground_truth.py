"""The annotated images to judge against: of a folder, of an annotation file, or generated."""

import json
import shutil
from pathlib import Path

import pytest

from gcnet.data.decode import ImageError
from gcnet.data.scenes import Scenes
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError
from gcnet.tasks.detection.metrics import open_ground_truth


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A folder laid out as COCO's, of three training and five validation images."""
    for split, count in (("train", 3), ("val", 5)):
        scenes = Scenes(count, split=split)
        scenes.write_coco(tmp_path / split, tmp_path / "annotations" / f"instances_{split}.json")
    return tmp_path


def test_of_a_folder_the_validation_images_are_opened(coco: Path) -> None:
    part = open_ground_truth(DataSettings(str(coco)))
    assert len(part.images) == 5
    assert part.images.read(3).tobytes() == Scenes(5, split="val").read(3).tobytes()
    assert [len(open_ground_truth(DataSettings(str(coco), limit_val=limit)).images) for limit in (2, 9)] == [2, 5]


def test_of_an_annotation_file_all_images_are_opened(coco: Path) -> None:
    part = open_ground_truth(DataSettings(str(coco / "annotations" / "instances_train.json")))
    assert len(part.images) == 3
    assert part.images.read(2).tobytes() == Scenes(3).read(2).tobytes()


def test_the_images_of_a_file_may_lie_elsewhere(coco: Path, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "objects.json"
    file.parent.mkdir()
    (coco / "annotations" / "instances_val.json").rename(file)
    with pytest.raises(UserError, match="none of the images is found in .*; `images` names their folder"):
        open_ground_truth(DataSettings(str(file)))
    part = open_ground_truth(DataSettings(str(file), limit_val=4, images=str(coco / "val")))
    assert (len(part.images), part.images.read(0).size) == (4, (64, 64))
    with pytest.raises(UserError, match=r"`images` takes a folder, but there is none at .*vla; did you mean \".*val\""):
        open_ground_truth(DataSettings(str(file), images=str(coco / "vla")))


def test_results_can_be_judged_without_the_images(coco: Path) -> None:
    file = coco / "alone.json"
    (coco / "annotations" / "instances_val.json").rename(file)
    for folder in ("train", "val"):
        shutil.rmtree(coco / folder, ignore_errors=True)
    images = open_ground_truth(DataSettings(str(file)), needs_images=False).images
    assert len(images.content["annotations"]) == 30
    with pytest.raises(ImageError):
        images.read(0)


def test_scenes_are_generated() -> None:
    images = open_ground_truth(DataSettings("scenes", limit_val=3), 5).images
    assert images.read(1).tobytes() == Scenes(3, split="val", seed=5).read(1).tobytes()


def test_issues_are_reported(coco: Path) -> None:
    file = coco / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"][4] |= {"bbox": [0, 0, 0, 0], "segmentation": []}
    file.write_text(json.dumps(content))
    part = open_ground_truth(DataSettings(str(file)))
    assert len(part.images.content["annotations"]) == 29
    assert "skipped: 1 x neither bbox nor mask" in (part.issue_report() or "")


def test_files_that_are_not_there_are_named(coco: Path) -> None:
    file = coco / "annotations" / "instances_vol.json"
    with pytest.raises(UserError, match=r"no annotation file at .*instances_vol\.json; did you mean"):
        open_ground_truth(DataSettings(str(file)))
