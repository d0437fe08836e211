"""Comparisons in two processes of torchrun: each runs whole trainings, with the results of one process."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import gcnet.comparison.measure
from comparison.ranks import compare_as_rank
from comparison.small import small, write_images
from gcnet.comparison.experiment import run_comparison
from gcnet.comparison.settings import CompareSettings
from gcnet.comparison.torchrun_runs import gpu_of, jobs_of_torchrun
from gcnet.errors import UserError
from gcnet.training.recipe import RecipeSettings
from training.photos import call_as_two, exit_codes

PATIENCE = 200
LONG = RecipeSettings(steps=3000, batch_size=9, lr=0.05)


def _joined(processes: list[Any], folder: Path) -> list[list[str]]:
    """The lines of both processes, by rank."""
    exit_codes(processes, PATIENCE)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def _runs(settings: CompareSettings) -> list[dict[str, Any]]:
    """The results of the trainings without their times."""
    runs = json.loads((Path(str(settings.output)) / "results.json").read_text())["runs"]
    return [{name: value for name, value in run.items() if name != "seconds"} for run in runs]


@pytest.mark.slow
def test_trainings_are_shared_out_over_the_processes_with_the_results_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcnet.comparison.measure, "training_step_peak_memory", lambda *_, **__: 4_000_000)
    monkeypatch.setattr(gcnet.comparison.measure, "REPETITIONS", 2)
    images = write_images(tmp_path / "images")
    shared = small(images, tmp_path / "shared", blocks="none,se,gc", jobs=None)
    first, second = _joined(call_as_two(compare_as_rank, shared, tmp_path), tmp_path)
    assert [line[:5] for line in first if line.startswith("[")] == ["[1/3]", "[2/3]", "[3/3]"]
    assert second == []
    alone = small(images, tmp_path / "alone", blocks="none,se,gc")
    run_comparison(settings=alone)
    assert _runs(shared) == _runs(alone)
    environments = [json.loads(path.read_text()) for path in tmp_path.glob("shared/runs/*/environment.json")]
    assert [[start["processes"] for start in starts] for starts in environments] == [[1]] * 3


@pytest.mark.slow
def test_an_error_in_one_training_ends_all_processes_with_one_sentence(tmp_path: Path) -> None:
    settings = small(write_images(tmp_path / "images"), tmp_path / "out", recipe=LONG, jobs=None)
    blocked = tmp_path / "out" / "runs" / "main-gc-seed0"
    first, second = _joined(call_as_two(compare_as_rank, settings, tmp_path, blocked), tmp_path)
    sentence = f"UserError: main-gc-seed0: `output` must not exist yet, found {blocked}; take another name"
    assert [first[-1], *second] == [sentence] * 2
    assert list(tmp_path.glob("out/runs/*.json")) == []


@pytest.mark.slow
def test_a_signal_to_one_process_ends_all_trainings_after_a_checkpoint(tmp_path: Path) -> None:
    settings = small(write_images(tmp_path / "images"), tmp_path / "out", recipe=LONG, jobs=None)
    processes = call_as_two(compare_as_rank, settings, tmp_path)
    deadline = time.monotonic() + PATIENCE
    while len(list(tmp_path.glob("out/runs/*/metrics.jsonl"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(processes[1].pid, signal.SIGTERM)
    first, second = _joined(processes, tmp_path)
    assert [first[-1], *second] == ["Stopped: stopped by SIGTERM; repeat the command to resume"] * 2
    assert len(list(tmp_path.glob("out/runs/*/checkpoint.safetensors"))) == 2


def test_each_process_uses_its_own_gpu() -> None:
    assert gpu_of(torch.device("cuda", 1), ("2", "5")) == "5"
    assert gpu_of(torch.device("cpu"), ()) is None


def test_jobs_are_one_per_process_or_one_that_all_share() -> None:
    assert [jobs_of_torchrun(jobs, 3) for jobs in (None, 1, 3)] == [3, 1, 3]
    with pytest.raises(UserError, match="`jobs` must be 3, one training per process .default., or 1, .* found 2"):
        jobs_of_torchrun(2, 3)
