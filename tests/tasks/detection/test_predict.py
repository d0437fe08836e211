"""`gcnet predict` with a detector, judged by running it by hand on the same pixels."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor, nn

from gcnet.cli import predict as command
from gcnet.cli.log_output import printed_messages
from gcnet.data.coco.masks import runs_mask
from gcnet.data.settings import PreprocessingSettings
from gcnet.errors import UserError
from gcnet.models.card import card_of
from gcnet.models.create import create_model
from gcnet.models.detector.heads import limit_detections
from gcnet.models.load import load_model
from gcnet.tasks.detection import inference as inference
from gcnet.tasks.detection.predict import ObjectPredictor
from gcnet.tasks.detection.predictions import Detections
from gcnet.tasks.detection.trained import TrainedDetector
from gcnet.tasks.predictor import Inference
from gcnet.tasks.settings import PredictSettings
from tasks.things import CATEGORY_IDS, CLASSES, build_finder, save_finder, waves, write_image

run = printed_messages()(command.run)


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_finder(tmp_path_factory.mktemp("model") / "finder.safetensors")


def predict(finder: Path, *paths: Path, **changes: Any) -> int:
    return run(PredictSettings(paths, str(finder), device="cpu", **changes))


def test_json_has_the_detections_as_coco_annotations(finder: Path, tmp_path: Path) -> None:
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


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with numpy 2
def test_pycocotools_reads_the_json(finder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    write_image(waves(40, 50), tmp_path / "a.png")
    write_image(waves(31, 53), tmp_path / "b.png")
    predict(finder, tmp_path, json=str(tmp_path / "new" / "a.json"), threshold=0.7)
    read = COCO(str(tmp_path / "new" / "a.json"))
    assert sorted(category["name"] for category in read.loadCats(read.getCatIds())) == sorted(CLASSES)
    for name, identity, size in (("a.png", 1, (40, 50)), ("b.png", 2, (31, 53))):
        assert read.loadImgs([identity])[0]["file_name"] == str(tmp_path / name)
        found = read.loadAnns(read.getAnnIds(imgIds=[identity], iscrowd=False))
        assert len(found) > 1
        for one in found:
            mask = read.annToMask(one)
            assert mask.shape == size
            assert mask.sum() == one["area"] == coco_mask.area(one["segmentation"])
            assert np.array_equal(mask, runs_mask(one["segmentation"]["counts"], *size))
    assert len(read.loadRes(read.dataset["annotations"]).getAnnIds()) == len(read.getAnnIds())
    assert "2 of 2 images processed" in capsys.readouterr().err


def test_only_the_classes_asked_for_are_given(finder: Path, tmp_path: Path) -> None:
    image = write_image(waves(71, 97), tmp_path / "a.png")
    predict(finder, image, json=str(tmp_path / "all.json"), threshold=0.0)
    predict(finder, image, json=str(tmp_path / "some.json"), threshold=0.0, classes="cube, traffic light")
    everything, some = (json.loads((tmp_path / name).read_text())["annotations"] for name in ("all.json", "some.json"))
    assert {one["category_id"] for one in everything} == set(CATEGORY_IDS)
    expected = [{**one, "id": None} for one in everything if one["category_id"] != CATEGORY_IDS[0]]
    assert [{**one, "id": None} for one in some] == expected


def predictor_of(model: nn.Module) -> ObjectPredictor:
    trained = TrainedDetector(model.eval(), CLASSES, CATEGORY_IDS)
    return ObjectPredictor(trained, "finder", Inference())


def detected(model: nn.Module, *paths: Path, **options: Any) -> Detections:
    return predictor_of(model)(paths, **options)


def test_the_table_has_a_line_for_each_image(finder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write_image(waves(40, 30), tmp_path / "found.png"), write_image(waves(71, 97), tmp_path / "none.png")]
    assert predict(finder, *paths, threshold=0.85) == 0
    heading, found, none = capsys.readouterr().out.splitlines()
    with torch.no_grad():
        by_hand = load_model(finder)([waves(40, 30)])[0]
    kept = by_hand["scores"] > 0.85
    counts = by_hand["labels"][kept].bincount(minlength=4).tolist()
    (label,) = [label for label, count in enumerate(counts) if count]
    best = f"{float(by_hand['scores'][0]):.3f}"
    assert heading.split() == ["image", "objects", "best", "classes"]
    assert found.split() == [str(paths[0]), str(int(kept.sum())), best, str(counts[label]), CLASSES[label - 1]]
    assert none.split() == [str(paths[1]), "0", "-", "-"]


def test_only_json_is_on_standard_output(finder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(waves(40, 30), tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    assert predict(finder, tmp_path, json="-", threshold=0.9) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["model"] == str(finder)
    assert (content["images_skipped"], content["skipped"]) == (
        1,
        [{"name": str(tmp_path / "b.png"), "reason": "empty file"}],
    )


def test_a_threshold_below_that_of_the_network_applies_to_one_call(tmp_path: Path) -> None:
    image = write_image(waves(40, 30), tmp_path / "a.png")
    model = build_finder()
    model.roi_heads.score_thresh = 0.9
    found = detected(model, image, threshold=0.8).images[0].results
    assert min(one["score"] for one in found) < 0.9
    assert model.roi_heads.score_thresh == 0.9

    def fail(*_: object) -> None:
        raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"):
        detected(model, image, threshold=0.8, show=fail)
    assert model.roi_heads.score_thresh == 0.9


def test_a_cascade_equals_its_stages_called_by_hand(tmp_path: Path) -> None:
    image = write_image(waves(40, 30), tmp_path / "a.png")
    model = create_model("cascade_mask_rcnn_scenes_resnet", num_classes=3).eval()
    with torch.no_grad():
        scores = model([waves(40, 30)])[0]["scores"]
    threshold = float(scores[:9].mean())
    found = detected(model, image, threshold=threshold).images[0].results
    assert 0 < len(found) < 9
    assert [one["score"] for one in found] == pytest.approx(scores[scores > threshold].tolist(), abs=1e-5)


def test_images_of_one_size_give_the_same_alone_and_in_batches(tmp_path: Path) -> None:
    for number in range(3):
        write_image(waves(64, 64).roll(9 * number, 2), tmp_path / f"{number}.png")
    (tmp_path / "1b.png").touch()
    paths, model, done = sorted(tmp_path.iterdir()), build_finder(), []
    alone = detected(model, *paths, threshold=0.8)
    together = detected(model, *paths, threshold=0.8, batch_size=2, progress=done.append)
    assert done == [2, 2]
    assert [one.path for one in alone.images] == [path for path in paths if path.name != "1b.png"]
    assert [one.name for one in together.skipped] == [str(tmp_path / "1b.png")]
    assert sum(len(one.results) for one in alone.images) > 10
    for one, other in zip(alone.images, together.images, strict=True):
        assert (one.path, one.image_id) == (other.path, other.image_id)
        for left, right in zip(one.results, other.results, strict=True):
            assert left["category_id"] == right["category_id"]
            assert [left["score"], *left["bbox"]] == pytest.approx([right["score"], *right["bbox"]], abs=1e-3)


def test_masks_are_pasted_a_few_at_a_time_with_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, model = write_image(waves(71, 97), tmp_path / "a.png"), build_finder()
    whole = detected(model, image)
    counts: list[int] = []
    paste = model.transform.postprocess

    def counted(found: list[dict[str, Tensor]], *sizes: Any) -> list[dict[str, Tensor]]:
        counts.append(len(found[0]["masks"]))
        return paste(found, *sizes)

    monkeypatch.setattr(model.transform, "postprocess", counted)
    monkeypatch.setattr(inference, "_PASTED_PIXELS", 3 * 71 * 97 + 1)
    assert detected(model, image) == whole
    assert sum(counts) == len(whole.images[0].results) > 6
    assert max(counts) == 3
    monkeypatch.setattr(inference, "_PASTED_PIXELS", 1)
    assert detected(model, image) == whole


def test_gray_transparent_and_rotated_images_are_decoded_as_displayed(tmp_path: Path) -> None:
    values, model = waves(40, 30), build_finder()
    plain = write_image(values, tmp_path / "plain.png")
    gray = Image.open(plain).convert("L")
    gray.save(tmp_path / "gray.png")
    gray.convert("RGB").save(tmp_path / "gray_rgb.png")
    Image.open(plain).convert("RGBA").save(tmp_path / "rgba.png")
    turned = Image.open(plain).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    names = ("plain", "rgba", "turned", "gray", "gray_rgb")
    found = detected(model, *(tmp_path / f"{name}.png" for name in names), threshold=0.8).images
    by_name = {one.path.stem: one for one in found}
    assert (by_name["turned"].height, by_name["turned"].width) == (40, 30)
    for name, like in (("rgba", "plain"), ("turned", "plain"), ("gray", "gray_rgb")):
        same = [{**one, "image_id": 0} for one in by_name[like].results]
        assert [{**one, "image_id": 0} for one in by_name[name].results] == same
    assert len(by_name["plain"].results) > 5


def test_an_image_too_narrow_for_torchvisions_resizing_is_skipped_with_the_reason(tmp_path: Path) -> None:
    model = build_finder(conventions="torchvision")
    sizes = ((1, 90), (40, 30), (90, 1))
    paths = [write_image(waves(*size), tmp_path / f"{number}.png") for number, size in enumerate(sizes)]
    found = detected(model, *paths, threshold=0.9)
    assert [one.path for one in found.images] == [paths[1]]
    assert [one.reason for one in found.skipped] == [
        "90x1 pixels, too narrow to be resized to a side of 64",
        "1x90 pixels, too narrow to be resized to a side of 64",
    ]


@pytest.mark.parametrize(("width", "height"), [(10_000, 1), (1, 300), (1, 1), (2_500, 40), (3, 2)])
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


def test_pictures_do_not_go_among_the_images(finder: Path, tmp_path: Path) -> None:
    write_image(waves(30, 30), tmp_path / "a.png")
    with pytest.raises(UserError, match="`output` must be another folder than that of the images"):
        predict(finder, tmp_path, output=tmp_path)
    assert [file.name for file in tmp_path.glob("*.jpg")] == []


def test_a_damaged_image_is_skipped_and_named(finder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(waves(30, 30), tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert predict(finder, tmp_path, output=tmp_path / "drawn") == 0
    printed = capsys.readouterr()
    assert f"skipped {tmp_path / 'bad.png'}: not an image of a known format" in printed.err
    assert "1 of 2 images processed, 1 skipped" in printed.err
    assert "images: resized to " in printed.err
    assert len(list((tmp_path / "drawn").iterdir())) == 1
    (tmp_path / "good.png").unlink()
    assert predict(finder, tmp_path / "bad.png") == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"topk": 3}, "`topk` is only for classifiers"),
        ({"preprocessing": PreprocessingSettings(image_size=30)}, "`image_size=30` is only for classifiers"),
        ({"classes": "bal"}, 'unknown class "bal"; did you mean "ball"'),
        ({"classes": "cube,"}, 'unknown class "";'),
        ({"output": Path("sheet.png")}, "`output` of a detector takes a folder"),
    ],
)
def test_invalid_settings_are_refused(finder: Path, tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        predict(finder, write_image(waves(9, 9), tmp_path / "a.png"), **changes)


def test_a_threshold_beyond_1_is_refused() -> None:
    with pytest.raises(UserError, match="`threshold` must be a score from 0 to 1, found 1.5"):
        PredictSettings((Path("a.png"),), "model", threshold=1.5)


def test_the_number_of_detections_per_image_is_an_option(tmp_path: Path) -> None:
    few = build_finder(detections_per_image=3)
    path = write_image(waves(71, 97), tmp_path / "waves.png")
    assert card_of(few).detector == {"detections_per_image": 3}
    counts = []
    for limit in (None, 1, 500):
        if limit is not None:
            limit_detections(few, limit)
        counts.append(len(detected(few, path, threshold=0.0).images[0].results))
    assert counts[:2] == [3, 1]
    assert counts[2] > 100


def test_objects_are_written_as_a_table_and_pictures_are_not_replaced(finder: Path, tmp_path: Path) -> None:
    path = write_image(waves(71, 97), tmp_path / "waves.png")
    file, pictures, answer = tmp_path / "found.csv", tmp_path / "pictures", tmp_path / "found.json"
    settings: dict[str, Any] = {"threshold": 0.0, "output": pictures}
    assert predict(finder, path, csv=file, json=str(answer), **settings) == 0
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    found = json.loads(answer.read_text())["annotations"]
    names = dict(zip(CATEGORY_IDS, CLASSES, strict=True))
    assert [row["class"] for row in rows] == [names[one["category_id"]] for one in found]
    assert [float(row["width"]) for row in rows] == pytest.approx([one["bbox"][2] for one in found], abs=0.01)
    with pytest.raises(UserError, match=r"`output`: .*waves.*jpg exists already; `overwrite` replaces it"):
        predict(finder, path, **settings)
    assert predict(finder, path, overwrite=True, **settings) == 0
