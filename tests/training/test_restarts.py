"""Jobs of torchrun that restart their processes, and jobs on two machines, here two addresses of this one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from free_ports import free_port
from gcnet.tensor_files import load_tensors
from gcnet.training.progress import Silent
from gcnet.training.restarts import describe_job, folder_of_job
from gcnet.training.run_folder import RunFolder, create_folder
from gcnet.training.settings import TrainSettings, override
from gcnet.workflows.train import run_training
from training.photos import settings_for, small_network, steady_network, write_photos

PATIENCE = 240
OPTIONS = ["--model", "cifar_resnet20", "--data", "photos", "--image-size", 8, "--batch-size", 10, "--epochs", 6]
SAVING = ["--save-every-steps", 2, "--log-every", 1, "--no-plots"]


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 5")
    return override(TrainSettings(), data="photos")


def test_a_job_finds_the_newest_of_its_run_folders_and_no_others(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    identity = describe_job(job)
    assert folder_of_job(job, "a", identity) is None
    folders = [create_folder(None, "a", config).path for config in ({}, {"job": identity}, {"job": identity})]
    for seconds, folder in enumerate(folders):
        os.utime(folder / "config.json", (seconds, seconds))
    assert folder_of_job(job, "a", identity) == folders[2]
    assert folder_of_job(override(job, output="runs/a"), "a", identity) is None
    assert folder_of_job(override(job, output="runs/a-2"), "a", identity) == folders[1]


def test_another_job_or_other_settings_are_another_identity(job, monkeypatch):
    def identity(settings):
        monkeypatch.setattr("gcnet.training.restarts._trainings", Counter())  # a new process
        return describe_job(settings)

    first = identity(job)
    assert identity(job) == first
    assert identity(override(job, seed=5)) != first
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 6")
    assert identity(job) != first
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr("os.getppid", lambda: 1)
    unnamed = identity(job)
    monkeypatch.setattr("os.getppid", os.getpid)
    assert identity(job) != unnamed
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert identity(job) is None


@pytest.mark.usefixtures("job")
def test_a_script_that_trains_twice_with_the_same_settings_has_two_runs_also_after_a_restart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = override(settings_for(write_photos(tmp_path / "photos"), Path("unused"), epochs=0.4), output=None)

    def script():
        monkeypatch.setattr("gcnet.training.restarts._trainings", Counter())
        builders = small_network, steady_network
        return [run_training(settings, build_model=build, reporter=Silent()).folder for build in builders]

    folders = script()
    assert len(set(folders)) == 2
    assert script() == folders


@pytest.fixture
def torchrun(tmp_path):
    """Starts a training by torchrun with the options of the latter, in a folder with a data set."""
    write_photos(tmp_path / "photos")
    started = []

    def start(*options, extra=(), module="gcnet"):
        launcher = [sys.executable, "-m", "torch.distributed.run", *options]
        words = list(map(str, [*launcher, "-m", module, "train", *OPTIONS, *SAVING, *extra]))
        with (tmp_path / f"log-{len(started)}").open("w") as log:
            paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
            started.append(subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.wait()


def is_open(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition):
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def step_of(checkpoint):
    return load_tensors(checkpoint)[1]["state"]["trainer"]["step"] if checkpoint.exists() else 0


def workers(launcher):
    return [int(number) for number in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]


def logs(folder):
    return "".join(path.read_text() for path in sorted(folder.glob("log-*")))


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs the process table of Linux")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [[], ["--shard-model", "--epochs", 3]], ids=["whole", "sharded"])
def test_a_job_with_a_killed_process_continues_its_run_to_the_same_bits(torchrun, tmp_path, kind):
    elastic = ["--nnodes", "1:2", "--nproc-per-node", 2, "--max-restarts", 3, "--rdzv-backend", "c10d"]
    elastic += ["--rdzv-conf", "last_call_timeout=1"]
    unbroken = torchrun(*elastic, "--rdzv-endpoint", f"127.0.0.1:{free_port()}", extra=[*kind, "--output", "unbroken"])
    assert unbroken.wait(PATIENCE) == 0, logs(tmp_path)
    killed = torchrun(*elastic, "--rdzv-endpoint", f"127.0.0.1:{free_port()}", extra=kind, module="training.dying")
    assert killed.wait(PATIENCE) == 0, logs(tmp_path)
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.search("resuming at step [45] of", logs(tmp_path))
    assert RunFolder(folder).last.read_bytes() == RunFolder(tmp_path / "unbroken").last.read_bytes()


@pytest.mark.slow
@linux
def test_a_job_that_loses_a_machine_continues_on_the_other_with_a_note(torchrun, tmp_path):
    options = ["--nnodes", "1:2", "--nproc-per-node", 1, "--max-restarts", 3, "--rdzv-id", "shrinking"]
    port = free_port()
    options += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    options += ["--rdzv-conf", "last_call_timeout=30", "--local-addr"]
    extra = ["--output", "run", "--epochs", 40]
    nodes = [torchrun(*options, "127.0.0.1", extra=extra)]
    wait_for(lambda: is_open(port))  # the first machine holds the store of the job
    nodes.append(torchrun(*options, "127.0.0.2", extra=extra))
    wait_for(lambda: step_of(tmp_path / "run" / "checkpoint.safetensors"))
    (worker,) = workers(nodes[1])
    nodes[1].kill()
    os.kill(worker, signal.SIGKILL)
    assert nodes[0].wait(PATIENCE) == 0, logs(tmp_path)
    nodes[1].wait()
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert [start["processes"] for start in starts] == [2, 1]
    assert "saved by 2 processes and resumed by 1" in logs(tmp_path)


@pytest.mark.slow
def test_two_machines_train_together_with_a_local_rank_each(torchrun, tmp_path):
    options = ["--nnodes", 2, "--nproc-per-node", 1, "--master-addr", "127.0.0.1", "--master-port", free_port()]
    nodes = [
        torchrun(*options, "--node-rank", rank, "--local-addr", f"127.0.0.{rank + 1}", extra=["--output", "run"])
        for rank in range(2)
    ]
    assert [node.wait(PATIENCE) for node in nodes] == [0, 0], logs(tmp_path)
    (start,) = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert start["processes"] == 2
    assert logs(tmp_path).count("finished; best") == 1
    assert RunFolder(tmp_path / "run").evaluations()[-1]["images"] == 21
