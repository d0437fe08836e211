"""How many trainings run at a time, on which GPU each, and how their progress is read."""

import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from comparison.small import Listener, small
from gcnet.comparison import workers
from gcnet.comparison.plan import Training, plan_trainings
from gcnet.comparison.run_progress import Progress, StepReader
from gcnet.comparison.runs import RunContext
from gcnet.comparison.schedule import share_machine
from gcnet.comparison.workers import run_in_processes
from gcnet.storage import write_atomic
from gcnet.training.distributed import Processes


def test_by_default_every_gpu_has_one_training() -> None:
    assert share_machine(None, 30, "cuda:0", ("0", "1", "2"))[0] == 3
    assert share_machine(None, 2, "cuda:0", ("0", "1", "2"))[0] == 2
    assert share_machine(None, 30, "cuda:1", ())[0] == 1
    assert share_machine(6, 30, "cuda:0", ("0", "1", "2"))[0] == 6


def write_visible_gpu(sender: Connection, training: Training, context: RunContext, log: Path) -> None:  # noqa: ARG001
    """Stand-in for a training: writes the GPU that its process sees."""
    log.write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "unset"))


def _visible_gpus(folder: Path, gpus: tuple[str, ...]) -> list[str]:
    """The GPU of each of three trainings that run at the same time."""
    settings = small(folder, folder, blocks="none,gc,se")
    trainings = plan_trainings(settings, epochs=1, variants={})
    context = RunContext(settings, folder, 3, 1, {}, 4, Processes(), gpus)
    (folder / "runs").mkdir()
    run_in_processes(trainings, context, Progress(context, trainings, Listener()))
    return [context.path(training).with_suffix(".log").read_text() for training in trainings]


@pytest.mark.slow
def test_each_process_sees_the_gpu_with_the_fewest_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_worker_main", write_visible_gpu)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert _visible_gpus(tmp_path, ("2", "5")) == ["2", "5", "2"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,5"


@pytest.mark.slow
def test_without_gpus_the_environment_of_processes_is_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_worker_main", write_visible_gpu)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _visible_gpus(tmp_path, ()) == ["unset"] * 3


def _append(run: Path, text: str) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(text)


def test_steps_are_read_from_complete_rows_only(tmp_path: Path) -> None:
    reader = StepReader(tmp_path)
    assert reader.read() == 0
    _append(tmp_path, '{"kind": "train", "step": 3}\n{"kind": "train", "st')
    assert reader.read() == 3
    _append(tmp_path, 'ep": 7}\n')
    assert reader.read() == 7
    _append(tmp_path, "[]\ndamaged\n")
    assert reader.read() == 7


def test_only_appended_rows_are_read_again(tmp_path: Path) -> None:
    reader = StepReader(tmp_path)
    _append(tmp_path, '{"step": 5}\n')
    assert reader.read() == 5
    with (tmp_path / "metrics.jsonl").open("r+") as file:
        file.write('{"step": 9}\n')
    assert reader.read() == 5


def test_rows_that_a_resumed_run_has_rewritten_are_read_from_the_start(tmp_path: Path) -> None:
    reader = StepReader(tmp_path)
    _append(tmp_path, '{"step": 5}\n{"step": 6}\n')
    assert reader.read() == 6
    write_atomic(tmp_path / "metrics.jsonl", b'{"step": 5}\n')
    assert reader.read() == 5
    _append(tmp_path, '{"step": 6}\n')
    assert reader.read() == 6
