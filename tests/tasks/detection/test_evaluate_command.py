"""`gcnet evaluate` of detectors and of their results, judged by the network run by hand and by what is known."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from gcnet.cli import evaluate as command
from gcnet.cli import main
from gcnet.cli.log_output import printed_messages
from gcnet.data.coco.inspection import read_annotations
from gcnet.data.coco.loading import image_to_tensor
from gcnet.data.coco.open import open_validation
from gcnet.data.scenes import CATEGORIES, Scenes
from gcnet.data.settings import DataSettings, PreprocessingSettings
from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.load import load_model
from gcnet.models.model_file import save_model
from gcnet.tasks.detection.coco_metrics import NUMBERS, coco_results, evaluate_detections
from gcnet.tasks.detection.trained import TrainedDetector
from gcnet.tasks.registry import TASKS
from gcnet.tasks.settings import EvaluateSettings
from gcnet.tasks.trained import TaskModel
from gcnet.workflows import evaluate
from tasks.shaken import Knowing, as_results, shaken

run = printed_messages()(command.run)

Content = dict[str, Any]


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small detector of the scenes' classes, with random weights."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("detector") / "scenes.safetensors"
    model = create_model("mask_rcnn_scenes_resnet", num_classes=len(CATEGORIES))
    save_model(model, path, class_names=CATEGORIES, category_ids=(1, 2, 3))
    return path


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A folder laid out as COCO's, of seven validation images, one of them damaged."""
    Scenes(7, split="val").write_coco(tmp_path / "val", tmp_path / "annotations" / "instances_val.json")
    (tmp_path / "val" / "000002.png").write_bytes(b"no image")
    return tmp_path


def table(output: str) -> dict[str, list[str]]:
    """The last two words of each line by its first."""
    return {words[0]: words[-2:] for line in output.splitlines() if len(words := line.split()) > 2}


@pytest.mark.slow
def test_a_detector_is_judged_as_its_own_detections_are(
    detector_file: Path, coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "results"
    assert run(EvaluateSettings(str(detector_file), data=str(coco), batch_size=1, device="cpu", output=out)) == 0
    content = read_annotations(coco / "annotations" / "instances_val.json")
    model, ids = load_model(detector_file), [1, 2, 4, 5, 6, 7]
    with torch.no_grad():
        found = [model([image_to_tensor(Scenes(7, split="val").read(identity - 1))])[0] for identity in ids]
    expected = coco_results(found, ids, (1, 2, 3))
    detections = json.loads((out / "detections.json").read_text())
    assert [one["segmentation"] for one in detections] == [one["segmentation"] for one in expected]
    written = json.loads((out / "results.json").read_text())
    assert (written["images"], written["images_skipped"], written["objects"]) == (6, 1, 36)
    assert written["skipped"] == [{"name": "000002.png", "reason": "not an image of a known format"}]
    assert (written["machine"]["precision"], written["machine"]["device"]) == ("float32", "cpu")
    printed = capsys.readouterr()
    assert "images   6 evaluated, 1 skipped" in printed.out
    assert "skipped 000002.png: not an image of a known format" in printed.err
    rows = table(printed.out)
    for kind in ("bbox", "segm"):
        numbers = evaluate_detections(content, expected, kind=kind, image_ids=ids).numbers
        assert {name: written[f"{kind}_{name}_fraction"] for name in NUMBERS} == pytest.approx(numbers)
        for name in NUMBERS:
            shown = "-" if numbers[name] is None else f"{100 * numbers[name]:.1f}"
            assert rows[name][kind == "segm"] == shown, name
    with open(out / "per_class.csv", newline="") as file:
        classes = list(csv.DictReader(file))
    assert [one["class"] for one in classes] == list(CATEGORIES)
    assert sum(int(one["objects"]) for one in classes) == 36
    for name in ("precision_recall.png", "error_gallery.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 500
    assert "000001.png" in (out / "error_gallery.html").read_text()
    assert "000002.png" not in (out / "error_gallery.html").read_text()


def test_exact_detections_score_100(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Scenes(7, split="val").read(2).save(coco / "val" / "000002.png")
    images = open_validation(DataSettings(str(coco))).images
    knowing = TrainedDetector(Knowing(images), CATEGORIES, (1, 2, 3))
    knowing.model.register_parameter("anchor", torch.nn.Parameter(torch.zeros(1)))
    known = TaskModel(knowing, "known", "known", TASKS["detection"])
    monkeypatch.setattr(evaluate, "open_trained", lambda *_, **__: known)
    assert run(EvaluateSettings("known", data=str(coco), batch_size=3, device="cpu", output=tmp_path)) == 0
    rows = table(printed := capsys.readouterr().out)
    assert [rows[name] for name in ("AP", "AP50", "AP75", "APs", "AR100", "ARs")] == [["100.0", "100.0"]] * 6
    assert [rows[name] for name in ("APm", "APl", "ARm", "ARl")] == [["-", "-"]] * 4
    assert [rows[name] for name in CATEGORIES] == [["100.0", "100.0"]] * 3
    assert "no COCO result" not in printed
    assert not (tmp_path / "error_gallery.html").exists()


def test_results_are_judged_without_a_model(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = coco / "annotations" / "instances_val.json"
    results = tmp_path / "given.json"
    results.write_text(json.dumps(as_results(read_annotations(file))))
    for data in (coco, file):
        assert run(EvaluateSettings(results=results, data=str(data))) == 0
        rows = table(capsys.readouterr().out)
        assert rows["AP"] == rows["AR100"] == rows[CATEGORIES[1]] == ["100.0", "100.0"]
    results.write_text(json.dumps(shaken(read_annotations(file))))
    out = tmp_path / "out"
    assert run(EvaluateSettings(results=results, data=str(file), images=str(coco / "val"), limit=4, output=out)) == 0
    written = json.loads((out / "results.json").read_text())
    assert (written["images"], written["results"], written["model"]) == (4, str(results), None)
    assert not (out / "detections.json").exists()
    assert written["segm_AP_fraction"] < 0.9


def test_so_few_images_of_coco_give_no_coco_result(
    tmp_path: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "nothing.json"
    results.write_text("[]")
    assert run(EvaluateSettings(results=results, data=str(data_root / "coco-mini"), limit=5)) == 0
    printed = capsys.readouterr().out
    assert "Subset of COCO val2017: not comparable to published AP, which uses all 5,000 images." in printed
    assert table(printed)["AP"] == ["0.0", "0.0"]


def test_issues_of_the_annotations_are_reported(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = coco / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"][3] |= {"bbox": [1, 2, 0, 0], "segmentation": []}
    file.write_text(json.dumps(content))
    results = tmp_path / "nothing.json"
    results.write_text("[]")
    assert main(["evaluate", "--results", str(results), "--data", str(coco)]) == 0
    printed = capsys.readouterr()
    assert "skipped: 1 x neither bbox nor mask" in printed.err
    assert "objects  41 of 3 classes" in printed.out


@pytest.mark.slow
def test_without_repairs_the_ground_truth_is_the_file_unchanged(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = coco / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"][3] |= {"id": 0, "bbox": [1, 2, 0, 0], "segmentation": []}
    file.write_text(json.dumps(content))
    results = tmp_path / "nothing.json"
    results.write_text("[]")
    command = ["evaluate", "--results", str(results), "--data", str(coco)]
    assert main([*command, "--no-repair", "--output", str(tmp_path / "as_is")]) == 0
    printed = capsys.readouterr()
    assert "issues" not in printed.err
    assert "objects  42 of 3 classes" in printed.out
    written = json.loads((tmp_path / "as_is" / "results.json").read_text())
    assert (written["repair"], written["issues"]) == (False, [])
    assert main([*command, "--output", str(tmp_path / "repaired")]) == 0
    written = json.loads((tmp_path / "repaired" / "results.json").read_text())
    assert (written["repair"], written["skipped_annotations"]) == (True, {"neither bbox nor mask": 1})
    assert [issue["action"] for issue in written["issues"]] == ["skipped"]
    del content["images"][0]["width"]
    file.write_text(json.dumps(content))
    assert main([*command, "--no-repair"]) == 2
    assert "cannot be evaluated with --no-repair: image 1 has width None" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            (CATEGORIES[0], CATEGORIES[2], CATEGORIES[1]),
            f'class 2 is "{CATEGORIES[2]}" in the former and "{CATEGORIES[1]}" in the latter',
        ),
        (CATEGORIES[:2], r"other\.safetensors has 2 classes and scenes 3"),
    ],
)
def test_other_classes_than_the_datas_are_refused(tmp_path: Path, names: tuple[str, ...], sentence: str) -> None:
    model = create_model("mask_rcnn_scenes_resnet", num_classes=len(names))
    save_model(model, tmp_path / "other.safetensors", class_names=names)
    with pytest.raises(UserError, match=sentence):
        run(EvaluateSettings(str(tmp_path / "other.safetensors"), limit=1, device="cpu"))


@pytest.mark.slow
def test_a_detector_may_have_more_classes_than_the_data(tmp_path: Path) -> None:
    """torchvision's detectors of COCO have 90 ids, and COCO's annotations 80 of them."""
    torch.manual_seed(5)
    narrow, wide = (create_model("faster_rcnn_scenes_resnet", num_classes=count).eval() for count in (3, 4))
    own = dict(narrow.state_dict())
    rows = [0, 1, 1, 2, 3]  # the third, of the additional class, gets no score
    for name, width in (("cls_score", 1), ("bbox_pred", 4)):
        for part in ("weight", "bias"):
            key = f"roi_heads.box_predictor.{name}.{part}"
            own[key] = torch.cat([own[key][width * row : width * (row + 1)] for row in rows])
    own["roi_heads.box_predictor.cls_score.bias"][2] = -1e4
    wide.load_state_dict(own)
    names = (CATEGORIES[0], "N/A", *CATEGORIES[1:])
    save_model(narrow, tmp_path / "3.safetensors", class_names=CATEGORIES, category_ids=(1, 2, 3))
    save_model(wide, tmp_path / "4.safetensors", class_names=names, category_ids=(1, 90, 2, 3))
    for count in (3, 4):
        arguments = [str(tmp_path / f"{count}.safetensors"), "--limit", "3", "--output", str(tmp_path / str(count))]
        assert main(["evaluate", *arguments]) == 0
    written, expected = (json.loads((tmp_path / name / "detections.json").read_text()) for name in ("4", "3"))
    assert len(written) == len(expected) > 10
    for result, other in zip(written, expected, strict=True):
        assert (result["image_id"], result["category_id"]) == (other["image_id"], other["category_id"])
        assert result["score"] == pytest.approx(other["score"], abs=1e-4)
    own["roi_heads.box_predictor.cls_score.bias"][2] = 10.0  # now most detections are of the additional class
    wide.load_state_dict(own)
    save_model(wide, tmp_path / "4.safetensors", class_names=names, category_ids=(1, 90, 2, 3))
    assert main(["evaluate", str(tmp_path / "4.safetensors"), "--limit", "3"]) == 0


def test_weights_by_name_report_the_assumed_order_of_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(create_model("mask_rcnn_scenes_resnet", num_classes=3).state_dict(), tmp_path / "three.pth")
    file = str(tmp_path / "three.pth")
    assert run(EvaluateSettings("mask_rcnn_scenes_resnet", file, data="scenes-control", limit=1, device="cpu")) == 0
    assert f"its labels are assumed to be, in this order, {', '.join(CATEGORIES)}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"preprocessing": PreprocessingSettings(crop_pct=0.5)},
            r"`crop_pct=0\.5` is only for classifiers, but .*scenes\.safetensors is a detector",
        ),
        ({"preprocessing": PreprocessingSettings(resize=70)}, "`resize=70` is only for classifiers"),
        (
            {"preprocessing": PreprocessingSettings(interpolation="bicubic")},
            "`interpolation=bicubic` is only for classifiers",
        ),
        ({"download_dir": "elsewhere"}, "`download_dir` is only for classifiers"),
        (
            {"data": "nowhere", "preprocessing": PreprocessingSettings(image_size=70)},
            "`image_size=70` is only for classif",
        ),
        ({"data": "nowhere"}, "nothing at .nowhere. .`data`.; a detector takes scenes"),
    ],
)
def test_flags_of_classifiers_are_refused(detector_file: Path, changed: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        run(EvaluateSettings(str(detector_file), device="cpu", **changed))


def test_flags_of_classifiers_are_refused_beside_results_too() -> None:
    with pytest.raises(UserError, match=r"`crop_pct=0\.5` is only for classifiers, but `results` are of a detector"):
        run(EvaluateSettings(results=Path("r.json"), preprocessing=PreprocessingSettings(crop_pct=0.5)))


def test_scenes_may_be_of_another_size(detector_file: Path, tmp_path: Path) -> None:
    settings = EvaluateSettings(
        str(detector_file),
        preprocessing=PreprocessingSettings(image_size=96),
        scene_distance=20,
        limit=2,
        device="cpu",
        output=tmp_path,
    )
    assert run(settings) == 0
    detections = json.loads((tmp_path / "detections.json").read_text())
    assert {tuple(one["segmentation"]["size"]) for one in detections} == {(96, 96)}


def test_a_fused_detector_finds_the_same_objects(detector_file: Path, tmp_path: Path) -> None:
    detections = []
    for fuse in (False, True):
        settings = EvaluateSettings(str(detector_file), limit=2, device="cpu", fuse=fuse, output=tmp_path / str(fuse))
        assert run(settings) == 0
        detections.append(json.loads((tmp_path / str(fuse) / "detections.json").read_text()))
    plain, fused = detections
    assert len(plain) == len(fused) > 0
    for expected, found in zip(plain, fused, strict=True):
        assert found["score"] == pytest.approx(expected["score"], abs=1e-4)
        assert found["bbox"] == pytest.approx(expected["bbox"], abs=0.1)


@pytest.mark.slow
def test_two_processes_under_torchrun_judge_every_image_once_and_print_once(
    detector_file: Path, coco: Path, tmp_path: Path
) -> None:
    run(EvaluateSettings(str(detector_file), data=str(coco), device="cpu", output=tmp_path / "alone"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "gcnet", "evaluate", "--model", str(detector_file), "--data", str(coco)]
    command += ["--workers", "1", "--device", "cpu", "--output", str(tmp_path / "both")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("images   6 evaluated, 1 skipped") == 1
    alone, both = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("alone", "both"))
    assert both == alone
