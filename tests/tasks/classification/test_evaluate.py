"""`gcnet evaluate`, judged by running the network by hand and by the published results of published weights."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import gcnet
from gcnet.cli import evaluate as command
from gcnet.cli.log_output import printed_messages
from gcnet.data.settings import Preprocessing, PreprocessingSettings
from gcnet.errors import OutOfMemory, UserError
from gcnet.models.create import create_model
from gcnet.models.load import load_model
from gcnet.models.model_file import save_model
from gcnet.tasks.settings import EvaluateSettings
from tasks.fruit import CLASSES, COUNTS, SIZE, random_pixels, write_fruit

run = printed_messages()(command.run)

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def predicted_by_hand(model_file: Path) -> list[int]:
    pixels = torch.stack([torch.from_numpy(random_pixels(number)) for number in range(sum(COUNTS))])
    with torch.no_grad():
        return load_model(model_file)(((pixels / 255 - MEAN) / STD).permute(0, 3, 1, 2)).argmax(1).tolist()


@pytest.fixture
def val(tmp_path: Path) -> Path:
    """A data folder whose val/ holds fifteen whole images and a damaged one."""
    write_fruit(tmp_path / "data" / "val")
    (tmp_path / "data" / "val" / "banana" / "broken.png").write_bytes(b"no image")
    return tmp_path / "data"


def test_results_are_written_printed_and_right(
    model_file: Path, val: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "results"
    settings = EvaluateSettings(str(model_file), data=str(val), batch_size=4, device="cpu", output=out)
    assert run(settings) == 0
    labels = [label for label, count in enumerate(COUNTS) for _ in range(count)]
    predicted = predicted_by_hand(model_file)
    confusion = [
        [sum(pair == (true, other) for pair in zip(labels, predicted, strict=True)) for other in range(3)]
        for true in range(3)
    ]
    correct = sum(confusion[label][label] for label in range(3))
    content = json.loads((out / "results.json").read_text())
    assert content["confusion"] == confusion
    assert (content["images"], content["correct"], content["images_skipped"]) == (15, correct, 1)
    assert content["skipped"] == [{"name": "banana/broken.png", "reason": "not an image of a known format"}]
    assert content["preprocessing"]["image_size"] == SIZE
    machine = {"device": "cpu", "precision": "float32", "channels_last": False, "compile": False, "fuse": False}
    assert content["machine"] == machine | {"kernels": {}, "batch_size": 4}
    with open(out / "per_class.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CLASSES)
    assert [int(row["correct"]) for row in rows] == [confusion[label][label] for label in range(3)]
    assert [float(row["top1_fraction"]) for row in rows] == pytest.approx(
        [r[i] / sum(r) for i, r in enumerate(confusion)], abs=1e-6
    )
    with Image.open(out / "confusion.png") as picture:
        assert picture.width > 300
    printed = capsys.readouterr()
    assert "images   15 evaluated, 1 skipped" in printed.out
    assert f"({correct} of 15; 95% interval" in printed.out
    assert printed.err.count("banana/broken.png") == 1
    assert f"weights: {model_file}\ndevice: cpu, float32, " in printed.err
    assert f"data: {val}: 16 images, 3 classes" in printed.err


def test_labels_follow_the_names_inside_the_model_file_whatever_their_order(
    model_file: Path, val: Path, tmp_path: Path
) -> None:
    model = load_model(model_file)
    order = [2, 0, 1]
    head = [name for name, _ in model.named_parameters()][-1].rpartition(".")[0]
    linear = model.get_submodule(head)
    with torch.no_grad():
        linear.weight.copy_(linear.weight[order].clone())
        linear.bias.copy_(linear.bias[order].clone())
    save_model(model, tmp_path / "turned.safetensors", class_names=[CLASSES[label] for label in order])
    results = []
    for number, file in enumerate((model_file, tmp_path / "turned.safetensors")):
        out = tmp_path / str(number)
        assert run(EvaluateSettings(str(file), data=str(val), device="cpu", output=out)) == 0
        results.append(json.loads((out / "results.json").read_text()))
    assert results[1]["classes"] == ["cherry", "apple", "banana"]
    assert results[0]["per_class"] == results[1]["per_class"]
    assert results[0]["correct"] == results[1]["correct"]


def test_a_class_that_the_model_does_not_know_is_refused_by_name(model_file: Path, val: Path) -> None:
    (val / "val" / "apple").rename(val / "val" / "aple")
    with pytest.raises(UserError, match=r'"aple" is not one of the 3 known classes; did you mean "apple"'):
        run(EvaluateSettings(str(model_file), data=str(val), device="cpu"))


def test_weights_with_another_number_of_classes_are_refused_and_not_given_a_new_classifier(
    val: Path, tmp_path: Path
) -> None:
    torch.save(create_model("cifar_resnet20", num_classes=7).state_dict(), tmp_path / "seven.pth")
    with pytest.raises(UserError, match=r"seven\.pth has 7 classes and .*data 3"):
        run(EvaluateSettings("cifar_resnet20", str(tmp_path / "seven.pth"), data=str(val), device="cpu"))


def test_weights_without_class_names_report_the_assumed_order(
    val: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(create_model("cifar_resnet20", num_classes=3).state_dict(), tmp_path / "three.pth")
    assert run(EvaluateSettings("cifar_resnet20", str(tmp_path / "three.pth"), data=str(val), device="cpu")) == 0
    assert (
        "has no class names; its outputs are assumed to be, in this order, apple, banana, cherry"
        in capsys.readouterr().err
    )


def test_size_resize_crop_and_interpolation_reach_the_preprocessing(
    model_file: Path, val: Path, tmp_path: Path
) -> None:
    changed = {"image_size": 24, "resize": 29, "interpolation": "bicubic", "mean": (0.5, 0.25, 0.75)}
    given = PreprocessingSettings(**changed)
    settings = EvaluateSettings(
        str(model_file), data=str(val), device="cpu", output=tmp_path / "out", preprocessing=given
    )
    assert run(settings) == 0
    preprocessing = json.loads((tmp_path / "out" / "results.json").read_text())["preprocessing"]
    assert {name: preprocessing[name] for name in changed} == changed | {"mean": [0.5, 0.25, 0.75]}


def test_a_new_image_size_keeps_the_share_that_the_crop_takes() -> None:
    usual = Preprocessing(224, 256)
    for changed, expected in (
        ({}, usual),
        ({"image_size": 112}, Preprocessing(112, 128)),
        ({"crop_pct": 1.0}, Preprocessing(224)),
        ({"image_size": 300, "resize": 311}, Preprocessing(300, 311)),
    ):
        assert PreprocessingSettings(**changed).applied(usual) == expected
    assert PreprocessingSettings(image_size=64).applied(Preprocessing(32)) == Preprocessing(64)
    assert PreprocessingSettings(crop_pct=0.8).applied(Preprocessing(32)) == Preprocessing(32, 40)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1, found 0"),
        ({"model": None}, "gcnet evaluate requires `model` .*or `results`"),
        ({"results": Path("r.json")}, "give one of `model` and `results`"),
        ({"model": None, "results": Path("r.json"), "workers": 2}, "`workers` requires a network"),
        ({"images": "photos"}, "`images` requires your own data, and `data=scenes` has its own splits"),
        ({"workers": -1}, "`workers` must be 0 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(changed: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        EvaluateSettings(**{"model": "resnet18", **changed})


def test_a_classifier_is_not_judged_on_detection_data(model_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "annotations" / "instances_val.json"
    file.parent.mkdir()
    file.touch()
    for data in (tmp_path, file):
        with pytest.raises(UserError, match=r"is for detectors, in COCO's format, but .*fruit.* is a classifier"):
            run(EvaluateSettings(str(model_file), data=str(data), device="cpu"))


def test_generated_scenes_have_the_size_that_the_network_was_trained_on(tmp_path: Path) -> None:
    from gcnet.data.images.open import open_evaluation
    from gcnet.data.settings import DataSettings

    classes = open_evaluation(DataSettings("scenes", limit_val=1))[0].classes
    model = create_model("cifar_resnet20", num_classes=len(classes)).eval()
    save_model(model, tmp_path / "m.safetensors", preprocessing=Preprocessing(40).to_dict(), class_names=classes)
    settings = EvaluateSettings(str(tmp_path / "m.safetensors"), limit=11, device="cpu", output=tmp_path)
    assert run(settings) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    assert (content["images"], content["preprocessing"]["image_size"]) == (11, 40)
    assert content["preprocessing"]["resize"] is None


def test_a_fused_network_has_the_same_scores(model_file: Path, val: Path, tmp_path: Path) -> None:
    scores = []
    for fuse in (False, True):
        settings = EvaluateSettings(
            str(model_file), data=str(val), device="cpu", fuse=fuse, output=tmp_path / str(fuse)
        )
        assert run(settings) == 0
        content = json.loads((tmp_path / str(fuse) / "results.json").read_text())
        scores.append((content["correct"], content["confusion"], pytest.approx(content["loss"], abs=1e-5)))
    assert scores[0] == scores[1]


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
def test_a_compiled_network_has_the_same_scores_and_half_precision_similar_ones(model_file: Path, val: Path) -> None:
    plain, compiled, half = (
        gcnet.evaluate(str(model_file), data=str(val), device="cpu", **options)
        for options in ({}, {"compile": True}, {"precision": "bf16"})
    )
    assert compiled.scores == pytest.approx(plain.scores, rel=1e-4)
    assert half.scores["loss"] != plain.scores["loss"]
    assert half.scores["loss"] == pytest.approx(plain.scores["loss"], rel=0.05)
    machines = [result.to_dict()["machine"] for result in (plain, compiled, half)]
    assert [(machine["precision"], machine["compile"]) for machine in machines] == [
        ("float32", False),
        ("float32", True),
        ("bf16", False),
    ]


def test_missing_memory_names_the_batch_size(model_file: Path, val: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")

    monkeypatch.setattr("gcnet.tasks.classification.metrics.class_scores", exhaust)
    expected = r"could not allocate 2.50 GiB with batches of 7 images \(`batch_size=7`\); use a smaller `batch_size`"
    with pytest.raises(OutOfMemory, match=expected):
        gcnet.evaluate(str(model_file), data=str(val), device="cpu", batch_size=7)


@pytest.mark.slow
def test_two_processes_under_torchrun_count_every_image_once_and_print_once(
    model_file: Path, val: Path, tmp_path: Path
) -> None:
    run(EvaluateSettings(str(model_file), data=str(val), batch_size=4, device="cpu", output=tmp_path / "alone"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "gcnet", "evaluate", "--model", str(model_file), "--data", str(val), "--batch-size", "4"]
    command += ["--device", "cpu", "--output", str(tmp_path / "both")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("images   15 evaluated, 1 skipped") == 1
    alone, both = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("alone", "both"))
    assert both.pop("loss") == pytest.approx(alone.pop("loss"), rel=1e-6)
    assert both == alone


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "weights", "correct"),
    [
        ("cifar_resnet20", "resnet20-12fca82f.th", 1846),
        ("gc_cifar_resnet20", "resnet20-12fca82f.th", 1846),
        ("cifar_resnet56", "resnet56-4bfd9763.th", 1882),
    ],
)
def test_published_weights_have_the_accuracy_of_their_authors(
    model: str, weights: str, correct: int, data_root: Path, tmp_path: Path
) -> None:
    file = data_root / "weights-resnet-cifar10" / weights
    settings = EvaluateSettings(model, str(file), data=str(data_root / "cifar10"), batch_size=100, output=tmp_path)
    assert run(settings) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    assert (content["correct"], content["images"], content["images_skipped"]) == (correct, 2000, 0)


WATCHED = """
import os, sys
touched = []
def watch(event, arguments):
    if event in ("open", "os.scandir", "os.listdir") and isinstance(arguments[0], (str, os.PathLike)):
        touched.append(os.fspath(arguments[0]))
sys.addaudithook(watch)
import gcnet
data, model, image = sys.argv[1:]
assert gcnet.evaluate(model, data=data, device="cpu").images == 15
gcnet.predict(image, model=model, device="cpu")
print(*sorted({path for path in touched if path.startswith(data)}), sep="\\n")
"""


@pytest.mark.slow
def test_evaluation_and_prediction_read_no_training_file(model_file: Path, val: Path) -> None:
    write_fruit(val / "train")
    image = min((val / "val").glob("*/*.png"))
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(val), str(model_file), str(image)],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "src")},
    )
    assert done.returncode == 0, done.stderr
    touched = done.stdout.splitlines()
    assert str(image) in touched
    assert [path for path in touched if path.startswith(str(val / "train"))] == [str(val / "train")]
