"""`gcnet predict` with a detector, judged by running it by hand on the same pixels."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from evaluation.things import CATEGORY_IDS, CLASSES, save_finder, waves, write_image
from gcnet.cli.predict import Settings, run
from gcnet.errors import UserError
from gcnet.evaluation.pictures import picture_names
from gcnet.models.files import load_model


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_finder(tmp_path_factory.mktemp("model") / "finder.safetensors")


def predict(finder: Path, *paths: Path, **changes: Any) -> int:
    return run(Settings(paths, str(finder), device="cpu", **changes))


def test_json_is_what_the_network_finds_as_coco_annotations(finder: Path, tmp_path: Path) -> None:
    image = write_image(waves(71, 97), tmp_path / "a.png")
    assert predict(finder, image, json=str(tmp_path / "a.json"), threshold=0.3) == 0
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["images"] == [{"id": 1, "file_name": str(image), "width": 97, "height": 71}]
    assert content["categories"] == [
        {"id": number, "name": name} for number, name in zip(CATEGORY_IDS, CLASSES, strict=True)
    ]
    with torch.no_grad():
        by_hand = load_model(finder)([waves(71, 97)])[0]
    kept = by_hand["scores"] > 0.3
    assert 0 < int(kept.sum()) == len(content["annotations"])
    assert [one["score"] for one in content["annotations"]] == pytest.approx(by_hand["scores"][kept].tolist(), abs=1e-5)
    for one, box, label, mask in zip(
        content["annotations"], by_hand["boxes"][kept], by_hand["labels"][kept], by_hand["masks"][kept], strict=True
    ):
        left, top, width, height = one["bbox"]
        assert [left, top, left + width, top + height] == pytest.approx(box.tolist(), abs=1e-3)
        assert one["category_id"] == CATEGORY_IDS[int(label) - 1]
        assert one["area"] == int((mask >= 0.5).sum())


def test_pycocotools_reads_the_json(finder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    image = write_image(waves(40, 50), tmp_path / "a.png")
    predict(finder, image, json=str(tmp_path / "a.json"), threshold=0.0)
    read = COCO(str(tmp_path / "a.json"))
    (first, *_) = read.loadAnns(read.getAnnIds())
    assert first["segmentation"]["size"] == [40, 50]
    assert int(coco_mask.area(first["segmentation"])) == first["area"]
    assert "searched for objects" in capsys.readouterr().err


def test_only_the_classes_asked_for_are_given(finder: Path, tmp_path: Path) -> None:
    image = write_image(waves(71, 97), tmp_path / "a.png")
    predict(finder, image, json=str(tmp_path / "all.json"), threshold=0.0)
    predict(finder, image, json=str(tmp_path / "some.json"), threshold=0.0, classes="cube, traffic light")
    everything, some = (json.loads((tmp_path / name).read_text())["annotations"] for name in ("all.json", "some.json"))
    assert {one["category_id"] for one in everything} == set(CATEGORY_IDS)
    expected = [{**one, "id": None} for one in everything if one["category_id"] != CATEGORY_IDS[0]]
    assert [{**one, "id": None} for one in some] == expected


@pytest.mark.parametrize(("width", "height"), [(90, 1), (1, 1), (10_000, 40), (3, 2)])
def test_images_of_odd_sizes_work(finder: Path, tmp_path: Path, width: int, height: int) -> None:
    image = write_image(waves(height, width), tmp_path / "odd.png")
    assert predict(finder, image, json=str(tmp_path / "a.json"), output=tmp_path / "drawn", threshold=0.1) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["images"][0]["width"] == width
    for one in found["annotations"]:
        assert one["bbox"][2] >= 0
        assert one["bbox"][0] + one["bbox"][2] <= width + 1e-3
    with Image.open(next((tmp_path / "drawn").iterdir())) as picture:
        assert max(picture.size) <= 2048


def test_a_damaged_image_is_left_out_and_named(
    finder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(waves(30, 30), tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert predict(finder, tmp_path, output=tmp_path / "drawn") == 0
    said = capsys.readouterr()
    assert f"left out {tmp_path / 'bad.png'}: not an image of a known format" in said.err
    assert "1 of 2 images searched for objects, 1 left out" in said.err
    assert len(list((tmp_path / "drawn").iterdir())) == 1
    (tmp_path / "good.png").unlink()
    assert predict(finder, tmp_path / "bad.png") == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"top": 3}, "--top belongs to classifiers"),
        ({"image_size": 30}, "--image-size belongs to classifiers"),
        ({"classes": "bal"}, 'unknown class "bal"; did you mean "ball"'),
        ({"output": Path("sheet.png")}, "--output of a detector is a folder"),
    ],
)
def test_what_cannot_work_is_refused(finder: Path, tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        predict(finder, write_image(waves(9, 9), tmp_path / "a.png"), **changes)


def test_a_threshold_beyond_1_is_refused() -> None:
    with pytest.raises(UserError, match="--threshold is a score, from 0 to 1; found 1.5"):
        Settings((Path("a.png"),), "model", threshold=1.5)


def test_pictures_of_images_with_the_same_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / "a.png", tmp_path / "y" / "a.png", tmp_path / "x" / "A.jpg"]
    names = picture_names(paths, tmp_path / "drawn")
    assert len({name.casefold() for name in names.values()}) == 3
