"""Whole comparisons in small: what they leave behind, and that an interrupted one goes on to the same results."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gcnet.comparison.measure
from comparison.small import STEPS, Listener, small, write_images
from gcnet.cli import main
from gcnet.comparison.experiment import run_comparison
from gcnet.comparison.results import Comparison, read_results
from gcnet.errors import UserError
from gcnet.storage import locked
from gcnet.training.recipe import RecipeSettings

LONG = 30


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes for memory and few repetitions: these are tested where they live."""
    monkeypatch.setattr(gcnet.comparison.measure, "training_step_peak_memory", lambda *_, **__: 4_000_000)
    monkeypatch.setattr(gcnet.comparison.measure, "REPETITIONS", 2)


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """The comparison that was never interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gcnet.comparison.measure, "training_step_peak_memory", lambda *_, **__: 4_000_000)
        patch.setattr(gcnet.comparison.measure, "REPETITIONS", 2)
        return run_comparison(settings=small(images, tmp_path_factory.mktemp("whole")))


@pytest.mark.usefixtures("quick")
@pytest.mark.slow
def test_a_comparison_leaves_its_results_a_table_a_figure_and_a_page(images: Path, tmp_path: Path) -> None:
    listener = Listener()
    comparison = run_comparison(settings=small(images, tmp_path / "out", seeds=2), reporter=listener)
    assert [(run.block, run.seed) for run in comparison.runs] == [("none", 0), ("gc", 0), ("none", 1), ("gc", 1)]
    assert all(run.images == 21 and run.curve[-1].scores == run.scores for run in comparison.runs)
    assert read_results(tmp_path / "out" / "results.json") == comparison
    assert (tmp_path / "out" / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "| gc " in (tmp_path / "out" / "results.md").read_text()
    assert "</html>" in (tmp_path / "out" / "report.html").read_text()
    assert listener.steps[-1] == 4 * STEPS
    assert listener.lines[-1].startswith("[4/4] gc, seed 1: top-1")
    costs = comparison.costs
    assert costs["none"].added_parameters == costs["none"].sites == 0
    assert costs["gc"].sites == 9
    assert costs["gc"].parameters - costs["none"].parameters == costs["gc"].added_parameters == 8997
    assert costs["gc"].analytic_flops == costs["gc"].added_flops > 0


@pytest.mark.usefixtures("quick")
@pytest.mark.slow
def test_an_interrupted_comparison_resumes_with_unfinished_runs(
    images: Path, tmp_path: Path, whole: Comparison
) -> None:
    def stop(line: str) -> None:
        if line.startswith("[1/2]"):
            raise KeyboardInterrupt

    settings = small(images, tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        run_comparison(settings=settings, reporter=Listener(stop))
    done = tmp_path / "cut" / "runs" / "main-none-seed0.json"
    written = done.stat().st_mtime_ns
    listener = Listener()
    continued = run_comparison(settings=settings, reporter=listener)
    assert "1 of 2 trainings are already finished" in listener.lines
    assert done.stat().st_mtime_ns == written
    assert [run.scores for run in continued.runs] == [run.scores for run in whole.runs]
    assert [run.curve for run in continued.runs] == [run.curve for run in whole.runs]


@pytest.mark.usefixtures("quick")
def test_a_signal_in_the_middle_of_a_training_saves_it_and_the_same_command_resumes_it(
    images: Path, tmp_path: Path, whole: Comparison
) -> None:
    from gcnet.comparison.runs import Stopped

    class Interrupting(Listener):
        def advance(self, step: int, total: int, text: str) -> None:
            super().advance(step, total, text)
            if step == STEPS + 2:
                os.kill(os.getpid(), signal.SIGTERM)

    settings = small(images, tmp_path / "cut")
    with pytest.raises(Stopped, match="SIGTERM; repeat the command to resume"):
        run_comparison(settings=settings, reporter=Interrupting())
    assert not (tmp_path / "cut" / "runs" / "main-gc-seed0.json").exists()
    listener = Listener()
    continued = run_comparison(settings=settings, reporter=listener)
    assert min(listener.steps) >= STEPS + 2  # at that step it is evaluated first
    assert [run.curve for run in continued.runs] == [run.curve for run in whole.runs]


@pytest.mark.usefixtures("quick")
def test_a_changed_setting_is_refused_for_the_same_folder(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    settings = small(images, folder)
    identity = replace(settings, machine=settings.machine.resolved(torch.device("cpu"))).identity()
    (folder / "compare.json").write_text(json.dumps(identity))
    with pytest.raises(UserError, match="holds a comparison with `seeds=1`, found 3; give another `output`"):
        run_comparison(settings=small(images, folder, seeds=3))
    with pytest.raises(UserError, match="with `blocks=none,gc`, found none,se"):
        run_comparison(settings=small(images, folder, blocks="none,se"))


def test_another_folder_is_not_written_into(images: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="must be a new folder or that of an earlier comparison"):
        run_comparison(settings=small(images, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


class Shift(nn.Module):
    """A user's own block: adds a learned number to each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(0.01 * nn.init.ones_(nn.Parameter(Tensor(channels))).detach())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift.view(1, -1, 1, 1)


def build_shift(channels: int) -> nn.Module:
    return Shift(channels)


@pytest.mark.usefixtures("quick")
def test_a_builder_of_the_user_is_compared_beside_the_named_blocks(images: Path, tmp_path: Path) -> None:
    comparison = run_comparison(["none", build_shift], settings=small(images, tmp_path / "out"))
    assert comparison.blocks == ("none", "build_shift")
    assert comparison.costs["build_shift"].added_parameters == 3 * (16 + 32 + 64)
    assert comparison.costs["build_shift"].analytic_flops is None
    assert len(comparison.of("build_shift")) == 1


def test_a_usage_error_on_the_command_line_is_one_sentence(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["compare", "--data", str(images), "--blocks", "none,gcc", "--output", str(tmp_path / "out")])
    assert code == 2
    assert capsys.readouterr().err.startswith('gcnet: unknown block "gcc"; did you mean "gc"?')
    assert not (tmp_path / "out").exists()


def test_weights_that_cannot_be_used_leave_no_folder_behind(images: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"")
    settings = small(images, tmp_path / "out", weights=str(tmp_path / "weights.pth"))
    with pytest.raises(UserError, match="is empty"):
        run_comparison(settings=settings)
    assert not (tmp_path / "out").exists()


def _command(images: Path, output: Path, *, steps: int = LONG) -> list[str]:
    words = f"--blocks none,gc --model cifar_resnet20 --steps {steps} --batch-size 9 --lr 0.05 --jobs 2 --device cpu"
    return [sys.executable, "-m", "gcnet", "compare", *words.split(), "--data", str(images), "--output", str(output)]


def _is_group_gone(group: int, *, seconds: float) -> bool:
    """Whether the processes of a group end by themselves."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("quick")
def test_after_a_kill_the_same_command_gives_the_same_results(images: Path, tmp_path: Path) -> None:
    recipe = RecipeSettings(steps=LONG, batch_size=9, lr=0.05)
    whole = run_comparison(settings=small(images, tmp_path / "whole", recipe=recipe))
    process = subprocess.Popen(_command(images, tmp_path / "cut"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    rows = tmp_path / "cut" / "runs" / "main-none-seed0" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not rows.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    subprocess.run(_command(images, tmp_path / "cut"), check=True, capture_output=True, timeout=500)
    cut = read_results(tmp_path / "cut" / "results.json")
    assert [run.curve for run in cut.runs] == [run.curve for run in whole.runs]
    assert all(cost.peak_memory_bytes is not None and cost.peak_memory_bytes > 0 for cost in cut.costs.values())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ctrl_c_ends_with_code_130_and_leaves_no_process_behind(images: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        _command(images, tmp_path / "out", steps=3000),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    rows = tmp_path / "out" / "runs" / "main-none-seed0" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not rows.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 130
    assert complaint.decode().strip() == "gcnet: stopped by SIGINT; repeat the command to resume"
    assert _is_group_gone(process.pid, seconds=30)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["costs.json", "compare.json", "runs/main-gc-seed0.json"])
@pytest.mark.parametrize("damage", ["{", "[]"])
@pytest.mark.slow
def test_a_damaged_file_of_an_earlier_attempt_is_named_in_one_sentence(
    images: Path, tmp_path: Path, finished: Path, name: str, damage: str
) -> None:
    shutil.copytree(finished, tmp_path / "out")
    (tmp_path / "out" / name).write_text(damage)
    with pytest.raises(UserError, match=name):
        run_comparison(settings=small(images, tmp_path / "out"))


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished comparison."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gcnet.comparison.measure, "training_step_peak_memory", lambda *_, **__: 4_000_000)
        patch.setattr(gcnet.comparison.measure, "REPETITIONS", 2)
        run_comparison(settings=small(images, folder))
    return folder


@pytest.mark.usefixtures("quick")
def test_a_second_comparison_in_the_same_folder_is_refused(images: Path, finished: Path) -> None:
    with locked(finished / ".lock"), pytest.raises(UserError, match="is in use by another gcnet compare"):
        run_comparison(settings=small(images, finished))


@pytest.mark.usefixtures("quick")
@pytest.mark.slow
def test_the_progress_of_measurements_is_shown(images: Path, tmp_path: Path) -> None:
    shown: list[str] = []

    class Watching(Listener):
        def advance(self, step: int, total: int, text: str) -> None:
            super().advance(step, total, text)
            shown.append(f"{step}/{total} {text}")

    run_comparison(settings=small(images, tmp_path / "out"), reporter=Watching())
    assert shown[:4] == [
        "0/4 measuring forward passes",
        "1/4 measuring training steps",
        "2/4 measuring the memory of none",
        "3/4 measuring the memory of gc",
    ]
    assert any("training gc, seed 0 " in text for text in shown)
