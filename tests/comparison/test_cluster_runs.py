"""Comparisons on a Ray cluster of two nodes: results as on one machine, also after the death of a node."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

import gcnet.comparison.measure
from comparison.ray_children import train_on_pretended_gpu
from comparison.small import Listener, small, write_images
from gcnet.comparison import cluster_runs
from gcnet.comparison.experiment import run_comparison
from gcnet.comparison.plan import plan_trainings
from gcnet.comparison.results import Comparison
from gcnet.comparison.run_progress import Progress
from gcnet.comparison.runs import RunContext
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError
from gcnet.experiments.reproduce import train_plain
from gcnet.experiments.settings import ReproduceSettings
from gcnet.ray_cluster import connected
from gcnet.training.distributed import Processes
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import MachineSettings
from ray_nodes import Nodes, two_nodes

STEPS = 150
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("quick")]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes for memory and few repetitions, which are tested where they live; progress many times a second."""
    monkeypatch.setattr(cluster_runs, "_POLL_SECONDS", 0.1)
    monkeypatch.setattr(gcnet.comparison.measure, "training_step_peak_memory", lambda *_, **__: 4_000_000)
    monkeypatch.setattr(gcnet.comparison.measure, "REPETITIONS", 2)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with two_nodes(tmp_path_factory.mktemp("ray")) as started:
        yield started


def _wait_for_rows(output: Path, trainings: int, *, seconds: float = 400) -> None:
    """Wait until this number of trainings has logged a step."""
    deadline = time.monotonic() + seconds
    while len(list(output.glob("runs/*/metrics.jsonl"))) < trainings:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _alive() -> int:
    return sum(node["Alive"] for node in ray.nodes())


def _curves(comparison: Comparison) -> list[object]:
    return [(run.block, run.seed, run.scores, run.curve) for run in comparison.runs]


def test_ctrl_c_cancels_the_tasks_after_their_checkpoints(nodes: Nodes, tmp_path: Path) -> None:
    images, output = write_images(tmp_path / "images"), tmp_path / "out"
    words = (
        f"--blocks none,gc --model cifar_resnet20 --steps 3000 --batch-size 9 --device cpu --cluster {nodes.address}"
    )
    command = [sys.executable, "-m", "gcnet", "compare", *words.split(), "--data", str(images), "--output", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    _wait_for_rows(output, 2)
    os.killpg(process.pid, signal.SIGINT)
    _, complaint = process.communicate(timeout=300)
    assert process.returncode == 130
    assert complaint.decode().strip() == "gcnet: stopped by SIGINT; repeat the command to resume"
    assert len(list(output.glob("runs/*/checkpoint.safetensors"))) == 2


def _run_on_gpus(nodes: Nodes, folder: Path) -> list[str]:
    """The logs of two trainings that run at the same time, each with a GPU of the cluster."""
    settings = small(folder, folder)
    trainings = plan_trainings(settings, epochs=1, variants={})
    context = RunContext(settings, folder, len(trainings), 1, {}, 4, Processes())
    (folder / "runs").mkdir()
    with connected(nodes.address) as cluster:
        assert cluster is not None
        share = cluster.share("auto")
        cluster_runs.run_on_cluster(trainings, context, share, Progress(context, trainings, Listener()))
    return [context.file(training, ".log").read_text() for training in trainings]


def test_each_training_sees_the_gpu_that_ray_assigns_to_it(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_runs, "train_on_node", train_on_pretended_gpu)
    monkeypatch.setattr(cluster_runs, "require_result", lambda *_: None)
    assert sorted(_run_on_gpus(nodes, tmp_path)) == ["0", "1"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a node without a GPU")
def test_a_node_where_pytorch_cannot_use_the_gpu_is_named(nodes: Nodes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"Ray has assigned GPU [01] of {socket.gethostname()}, where PyTorch finds no"):
        _run_on_gpus(nodes, tmp_path)


def test_the_first_stage_of_a_table_is_a_task_that_resumes_after_the_death_of_its_worker(
    nodes: Nodes, tmp_path: Path
) -> None:
    settings = ReproduceSettings(
        table=("imagenet",),
        scale="full",
        data=DataSettings(str(write_images(tmp_path / "images")), image_size=11),
        recipe=RecipeSettings(steps=STEPS, batch_size=9),
        machine=MachineSettings(device="cpu"),
        output=str(tmp_path / "alone"),
    )
    alone = train_plain(settings, "cifar_resnet20").read_bytes()
    folder, killed = tmp_path / "ray" / "cifar_resnet20-plain", []

    class Killing(Listener):
        """Kills the worker of the task as soon as there is a checkpoint."""

        def advance(self, step: int, total: int, text: str) -> None:
            super().advance(step, total, text)
            if not killed and (folder / "checkpoint.safetensors").exists():
                killed.extend([True] * nodes.kill_worker(b"ray::cifar_resnet20-plain"))

    on_cluster = replace(settings, cluster=nodes.address, output=str(folder.parent))
    assert train_plain(on_cluster, "cifar_resnet20", reporter=Killing()) == folder / "weights" / "last.safetensors"
    assert killed == [True]
    assert _starts(folder) == 2
    assert (folder / "weights" / "last.safetensors").read_bytes() == alone
    listener = Listener()
    train_plain(on_cluster, "cifar_resnet20", reporter=listener)
    assert (listener.lines, _starts(folder)) == ([], 2)


def test_a_comparison_survives_the_death_of_a_node_with_the_same_results(nodes: Nodes, tmp_path: Path) -> None:
    images, output = write_images(tmp_path / "images"), tmp_path / "ray"
    recipe = RecipeSettings(steps=STEPS, batch_size=9, lr=0.05)
    alone = run_comparison(settings=small(images, tmp_path / "alone", recipe=recipe, seeds=2))
    alive = []

    class Killing(Listener):
        """Kills the second node as soon as a training there has logged steps."""

        def advance(self, step: int, total: int, text: str) -> None:
            super().advance(step, total, text)
            logged = [rows.parent.name for rows in output.glob("runs/*/metrics.jsonl")]
            if not alive and any(nodes.second_runs(f"ray::{name}".encode()) for name in logged):
                alive.append(_alive())
                nodes.kill_second()

        def log(self, text: str) -> None:
            super().log(text)
            if text.startswith("[4/4]"):
                alive.append(_alive())

    settings = small(images, output, recipe=recipe, seeds=2, jobs=None, cluster=nodes.address)
    with_cluster = run_comparison(settings=settings, reporter=Killing())
    assert alive == [2, 1]
    assert _curves(with_cluster) == _curves(alone)
    assert [run.name for run in output.glob("runs/*") if _starts(run) > 1] != []


def _starts(run: Path) -> int:
    """How many times a training was started or resumed."""
    environment = run / "environment.json"
    return len(json.loads(environment.read_text())) if environment.exists() else 0
