"""Detectors of boxes only, and data without masks: trained, evaluated, and used for predictions."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.coco.annotated import write_json
from gcnet.cli import main
from gcnet.data.coco.inspection import read_annotations
from gcnet.data.scenes import Scenes

MODEL = ["--model", "faster_rcnn_gc_scenes_resnet", "--device", "cpu"]
SHORT = ["--batch-size", "2", "--steps", "2", "--rois-per-image", "16", "--no-plots"]


def write_boxes(root: Path, *, without: str = "all") -> Path:
    """Scenes whose objects, all or every second, have no mask."""
    for split in ("train", "val"):
        path = root / f"{split}.json"
        Scenes(3, split=split).write_coco(root / split, path)
        content = read_annotations(path)
        for annotation in content["annotations"]:
            if without == "all" or annotation["id"] % 2:
                del annotation["segmentation"]
        write_json(path, content)
    return root


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_boxes(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="module")
def trained(boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", *MODEL, *SHORT, "--data", str(boxes), "--output", str(output)]) == 0
    return output


def test_a_detector_of_boxes_trains_on_data_without_masks(trained: Path):
    with (trained / "results.csv").open() as file:
        row = next(csv.DictReader(file))
    assert float(row["bbox_AP_fraction"]) >= 0
    assert not row.get("segm_AP_fraction")
    losses = json.loads((trained / "metrics.jsonl").read_text().splitlines()[0])
    assert "loss_mask" not in losses


def test_it_is_evaluated_by_its_boxes_as_pycocotools_does(
    boxes: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = str(trained / "weights" / "best.safetensors")
    assert main(["evaluate", "--model", model, "--data", str(boxes), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "boxes" in printed
    assert "masks" not in printed
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "mask" not in found
    detections = tmp_path / "out" / "detections.json"
    truth = COCO(str(boxes / "val.json"))
    judge = COCOeval(truth, truth.loadRes(json.loads(detections.read_text())), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert found["bbox_AP_fraction"] == pytest.approx(judge.stats[0], abs=1e-9)
    assert main(["evaluate", "--results", str(detections), "--data", str(boxes)]) == 0
    assert "masks" not in capsys.readouterr().out.replace("out/", "")


def test_it_predicts_boxes(boxes: Path, trained: Path, tmp_path: Path):
    file, model = tmp_path / "found.json", str(trained / "weights" / "best.safetensors")
    arguments = ["--model", model, "--threshold", "0", "--json", str(file), "--output", str(tmp_path / "pictures")]
    assert main(["predict", str(boxes / "val"), *arguments]) == 0
    found = json.loads(file.read_text())["annotations"]
    assert found
    assert all("segmentation" not in one and one["area"] > 0 for one in found)
    assert len(list((tmp_path / "pictures").iterdir())) == 3


def test_a_detector_of_masks_refuses_data_without_any_and_names_the_one_of_boxes(
    boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments: list[Any] = ["--data", str(boxes), "--output", str(tmp_path / "run")]
    assert main(["train", "--model", "mask_rcnn_gc_scenes_resnet", *SHORT, *arguments]) == 2
    assert "has boxes and no masks" in (printed := capsys.readouterr().err)
    assert "use faster_rcnn_gc_scenes_resnet, a detector without masks" in printed
    assert not (tmp_path / "run").exists()


def test_a_detector_of_masks_tells_why_no_mask_can_be_used(
    boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = tmp_path / "data"
    shutil.copytree(boxes, data)
    for file in data.glob("*.json"):
        content = json.loads(file.read_text())
        for annotation in content["annotations"]:
            annotation["segmentation"] = {"size": [3, 5], "counts": [15]}
        file.write_text(json.dumps(content))
    arguments = ["--data", str(data), "--output", str(tmp_path / "run")]
    assert main(["train", "--model", "mask_rcnn_gc_scenes_resnet", *SHORT, *arguments]) == 2
    assert "has no mask that can be used (skipped: 18 x RLE size mismatch), but" in capsys.readouterr().err


def test_boxes_outside_of_all_images_are_the_reason_for_nothing_to_learn(
    boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = tmp_path / "data"
    shutil.copytree(boxes, data)
    for file in data.glob("*.json"):
        content = json.loads(file.read_text())
        for annotation in content["annotations"]:
            annotation |= {"bbox": [500.0, 500.0, 9.0, 9.0], "segmentation": []}
        file.write_text(json.dumps(content))
    arguments = ["--data", str(data), "--output", str(tmp_path / "run")]
    assert main(["train", "--model", "faster_rcnn_gc_scenes_resnet", *SHORT, *arguments]) == 2
    assert "boxes lie outside of their images, such as [500.0, 500.0, 9.0, 9.0]" in capsys.readouterr().err


def test_a_detector_of_masks_learns_boxes_of_objects_without_a_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_boxes(tmp_path / "data", without="some")
    arguments = ["--data", str(data), "--output", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["train", "--model", "mask_rcnn_gc_scenes_resnet", *SHORT, *arguments]) == 0
    printed = capsys.readouterr()
    assert "9 of 18 training objects have no mask" in printed.out + printed.err
    assert "have no mask: box AP chooses the best weights" in printed.out + printed.err


@pytest.mark.parametrize("data", [".", "train.json", "train"])
def test_a_classifier_on_detection_data_suggests_a_detector(
    boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str
):
    place = boxes / data
    if data == "train":
        place = tmp_path / "data"
        write_json(place / "train" / "_annotations.coco.json", read_annotations(boxes / "train.json"))
    output = tmp_path / "run"
    assert main(["train", "--model", "gc_scenes_resnet", "--data", str(place), "--output", str(output)]) == 2
    printed = capsys.readouterr().err
    assert f"{place} holds COCO annotations, for detectors such as --model mask_rcnn_gc_scenes_resnet" in printed
