"""Files of version 1 (`tests/files_of_version_1`, written by commit 023e152) load, resume and go on."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import gcnet
from gcnet.cli import main
from gcnet.comparison.results import read_results
from gcnet.renamed import FORMAT_VERSION, SETTINGS
from gcnet.tensor_files import load_tensors, save_tensors
from tolerances import assert_equal_within

FILES = Path(__file__).parent / "files_of_version_1"
SHARED = ("kind", "step", "epoch", "loss", "train_loss", "val_loss", "learning_rate", "images")


def rows(file: Path) -> list[dict[str, object]]:
    """The numbers of a metrics.jsonl whose names have not changed, without times."""
    read = map(json.loads, file.read_text().splitlines())
    return [{name: row[name] for name in SHARED if name in row} for row in read]


def assert_close(actual: list[dict[str, object]], expected: list[dict[str, object]]) -> None:
    assert len(actual) == len(expected) > 0
    for ours, reference in zip(actual, expected, strict=True):
        assert ours.keys() == reference.keys()
        for name, value in reference.items():
            # To the bit on the machine that wrote them; other CPUs round otherwise.
            assert ours[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), name


@pytest.fixture
def copy(tmp_path: Path):
    def make(name: str) -> Path:
        folder = Path(shutil.copytree(FILES / name, tmp_path / name))
        (folder / "weights").mkdir(exist_ok=True)  # git has no empty folders
        return folder

    return make


def old_names(settings: dict[str, dict[str, object]]) -> set[str]:
    return {name for group, names in SETTINGS.items() for name in names if name in settings.get(group, {})}


def test_the_files_have_old_names_and_no_version():
    for run in ("classifier", "detector"):
        config = json.loads((FILES / run / "config.json").read_text())
        assert "format_version" not in config and len(old_names(config["settings"])) > 20


def test_a_classifier_resumes_as_it_would_have_gone_on(copy, capsys):
    run = copy("classifier")
    assert main(["train", "--resume", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "accumulate -> grad_accumulation" in printed and "pictures -> plots" in printed
    assert_close(rows(run / "metrics.jsonl"), rows(FILES / "classifier_continued.jsonl"))
    evaluations = [
        row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "val_loss" in row
    ]
    assert [row["top1_fraction"] for row in evaluations] == [0.25, 0.1875]
    config = json.loads((run / "config.json").read_text())
    assert config["format_version"] == FORMAT_VERSION and not old_names(config["settings"])
    settings = config["settings"]
    assert settings["recipe"]["grad_accumulation"] == 2 and settings["recipe"]["warmup_start_factor"] == 0.25
    assert settings["augment"]["random_crop"] == "pad" and settings["augment"]["color_jitter"] == 0.3
    assert settings["network"]["block_options"] == ["pooling=attention"] and settings["output"]["plots"] is False


def test_an_upgraded_run_reports_no_old_names(copy, capsys):
    run = copy("classifier")
    assert main(["train", "--resume", str(run)]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 0
    assert "->" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_detector_without_a_checkpoint_trains_the_same_steps_again(copy):
    run = copy("detector")
    assert main(["train", "--resume", str(run)]) == 0
    assert_close(rows(run / "metrics.jsonl"), rows(FILES / "detector_continued.jsonl"))
    detector = json.loads((run / "config.json").read_text())["settings"]["detector"]
    assert detector["conventions"] == "torchvision" and detector["norm"] == "eval_stats"
    assert json.loads((run / "config.json").read_text())["settings"]["recipe"]["preset"] == "paper-1x"
    assert detector["min_size"] == [56, 64] and detector["large_scale_jitter"] == [0.5, 1.5]


@pytest.mark.slow
def test_a_detector_with_the_conventions_of_mmdet_continues_with_a_note_on_its_new_losses(copy, capsys):
    run = copy("detector")
    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["detector"]["numerics"] == "torchvision"
    config["settings"]["detector"]["numerics"] = "mmdet"
    (run / "config.json").write_text(json.dumps(config))
    note = "the run was started by a version with other losses of --conventions mmdet; from here on they are mmdet's"
    assert main(["train", "--resume", str(run)]) == 0
    assert note in capsys.readouterr().out
    assert main(["train", "--resume", str(run)]) == 0
    assert note not in capsys.readouterr().out


def test_a_comparison_of_detectors_with_the_conventions_of_mmdet_is_not_continued_with_other_losses(copy, capsys):
    folder = copy("compare")
    stored = json.loads((folder / "compare.json").read_text()) | {"model": "mask_rcnn_scenes_resnet"}
    (folder / "compare.json").write_text(json.dumps(stored))
    flags = ["--model", "mask_rcnn_scenes_resnet", "--blocks", "none,gc", "--data", "scenes", "--output", str(folder)]
    assert main(["compare", *flags]) == 2
    sentence = "holds a comparison of detectors by a version with other losses of --conventions mmdet; give another"
    assert sentence in capsys.readouterr().err


def test_a_model_file_loads():
    file = FILES / "classifier" / "weights" / "best.safetensors"
    model = gcnet.load_model(file)
    tensors, _ = load_tensors(file)
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 6)


def test_a_model_file_of_a_detector_is_read_under_the_new_names(tmp_path):
    card = json.loads((FILES / "detector_card.json").read_text())
    options = {"conventions": "torchvision", "norm": "eval_stats", "rois_per_image": 64, "image_size": (64, 64)}
    detector = gcnet.create_model("mask_rcnn_gc_scenes_resnet", num_classes=3, detector=options)
    save_tensors(tmp_path / "old.safetensors", detector.state_dict(), card)
    loaded = gcnet.load_model(tmp_path / "old.safetensors")
    assert loaded.model_card.detector == options | {"box_head": "2fc"}
    gcnet.save_model(loaded, tmp_path / "new.safetensors")
    assert load_tensors(tmp_path / "new.safetensors")[1]["format_version"] == FORMAT_VERSION


def test_a_block_file_loads_and_computes_the_same():
    model = gcnet.create_model("scenes_resnet")
    gcnet.load_context(model, FILES / "nl.context.safetensors")
    block = model.layer1[1].context
    tensors, metadata = load_tensors(FILES / "nl.context.safetensors")
    assert metadata["insertions"][0]["options"]["normalisation"] == "batch"
    prefix = "layer1.1.context."
    assert {prefix + name for name in block.state_dict()} == set(tensors)
    x = torch.randn(2, 32, 5, 7)
    assert_equal_within(block.eval()(x), x, torch.float32)  # gamma of the batch norm is zero


@pytest.mark.slow
def test_a_comparison_resumes_with_the_same_settings(copy, monkeypatch, capsys):
    folder = copy("compare")
    monkeypatch.chdir(folder.parent)
    flags = "--blocks none,gc --steps 4 --limit-train 32 --limit-val 16 --batch-size 8 --no-control --jobs 1"
    assert main(["compare", *flags.split(), "--warmup-start-factor", "0.5", "--output", "compare"]) == 0
    assert "2 of 2 trainings are already finished" in capsys.readouterr().out
    assert json.loads((folder / "results.json").read_text())["format_version"] == FORMAT_VERSION
    assert read_results(folder / "results.json").runs == read_results(FILES / "compare" / "results.json").runs


def test_results_of_a_comparison_are_read_under_the_new_names():
    costs = read_results(FILES / "compare" / "results.json").costs
    written = json.loads((FILES / "compare" / "results.json").read_text())["costs"]["gc"]
    assert (costs["gc"].sites, costs["gc"].step_seconds_median) == (written["places"], written["step_median"])
