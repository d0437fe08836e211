"""A new task, image regression, works with the unchanged commands: train, resume, evaluate, predict, compare, cost."""

import json
import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import gcnet
from gcnet.cli import main
from gcnet.models import registry as models
from gcnet.tasks import registry as tasks
from gcnet.tensor_files import load_tensors
from tasks.brightness import MODEL, BrightnessRegression, BrightnessTraining, build_regressor, explained_variance

pytestmark = pytest.mark.slow
RECIPE = ["--batch-size", "8", "--lr", "0.01", "--device", "cpu", "--seed", "3", "--no-plots"]


@pytest.fixture(autouse=True)
def new_task(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """The task in the registry of tasks, and its network in that of models."""
    known = dict(tasks.TASKS)
    tasks.TASKS.clear()
    tasks.TASKS.update({"brightness": BrightnessRegression(), **known})
    monkeypatch.setitem(models.BASE_MODELS, MODEL, build_regressor)
    yield
    tasks.TASKS.clear()
    tasks.TASKS.update(known)


def train(folder: Path, *arguments: str) -> int:
    return main(["train", "--model", f"gc_{MODEL}", "--output", str(folder), *RECIPE, *arguments])


def test_it_trains_evaluates_and_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "whole", "--steps", "8") == 0
    weights = tmp_path / "whole" / "weights" / "last.safetensors"
    model = gcnet.load_model(weights)
    capsys.readouterr()
    assert main(["evaluate", str(weights), "--output", str(tmp_path / "out")]) == 0
    assert f"R2  {100 * explained_variance(model):.2f} %" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "results.json").read_text())["r2_fraction"] == explained_variance(model)
    Image.new("RGB", (20, 20), (200, 200, 200)).save(tmp_path / "gray.png")
    predictions = gcnet.predict(tmp_path / "gray.png", model=str(weights))
    with torch.no_grad():
        expected = float(model(torch.full((1, 3, 16, 16), 200 / 255)))
    assert predictions.images[0][1] == pytest.approx(expected, abs=1e-6)


def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(tmp_path / "whole", "--steps", "6") == 0
    losses, calls = BrightnessTraining.losses, 0

    def interrupted(*arguments: Any) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(BrightnessTraining, "losses", interrupted)
        assert train(tmp_path / "cut", "--steps", "6") == 128 + signal.SIGTERM
    assert main(["train", "--resume", str(tmp_path / "cut")]) == 0
    whole, cut = (load_tensors(tmp_path / name / "weights" / "last.safetensors")[0] for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_settings_of_other_tasks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gcnet.save_model(gcnet.create_model(MODEL, num_classes=1), tmp_path / "model.safetensors")
    (tmp_path / "gray.png").touch()
    arguments = ["predict", str(tmp_path / "gray.png"), "--model", str(tmp_path / "model.safetensors")]
    assert main([*arguments, "--topk", "3"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gcnet: --topk is only for classifiers, but ")
    assert error.endswith("model.safetensors is a regressor\n")
    assert main(["analyze", str(tmp_path / "model.safetensors"), str(tmp_path / "gray.png")]) == 2
    assert "gcnet analyze does not support a regressor" in capsys.readouterr().err


def test_it_is_compared_and_its_costs_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Memory is measured in new processes, in which only the package's own tasks are registered.
    monkeypatch.setattr("gcnet.comparison.measure.training_step_peak_memory", lambda *_, **__: None)
    monkeypatch.setattr("gcnet.comparison.measure.REPETITIONS", 1)
    folder = tmp_path / "compared"
    arguments = ["--model", MODEL, "--blocks", "none,gc", "--seeds", "1", "--epochs", "1", "--batch-size", "8"]
    assert main(["compare", *arguments, "--device", "cpu", "--jobs", "1", "--output", str(folder)]) == 0
    results = json.loads((folder / "results.json").read_text())
    assert {run["block"] for run in results["runs"]} == {"none", "gc"}
    assert "R2" in (folder / "results.md").read_text()
    capsys.readouterr()
    assert main(["cost", f"gc_{MODEL}"]) == 0
    assert "16 x 16" in capsys.readouterr().out
