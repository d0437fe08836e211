"""`gcnet train` as a process: exit codes, signals, and full disks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gcnet.tensor_files import load_tensors
from training.photos import write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


def command(photos, output, *more):
    model = ("--model", "cifar_resnet20", "--data", str(photos), "--batch-size", "10", "--no-plots")
    return [sys.executable, "-m", "gcnet", "train", *model, "--output", str(output), *more]


def lines_of(process):
    return iter(process.stdout.readline, "")


def is_starting(process):
    """Whether Python itself is still starting, as it does for seconds on a busy machine; False where it cannot tell."""
    libraries = Path(f"/proc/{process.pid}/maps")
    return libraries.exists() and process.poll() is None and "libtorch" not in libraries.read_text()


@pytest.fixture
def no_signal_ignored():
    """Where tests run in the background, processes that they start would inherit ignored signals."""
    ignored = [number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.slow
@pytest.mark.usefixtures("no_signal_ignored")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_the_command_ends_a_stopped_run_with_the_documented_code(photos, tmp_path, number, code):
    arguments = command(photos, tmp_path / "run", "--epochs", "500", "--workers", "2")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        next(line for line in lines_of(process) if line.startswith("epoch 1 "))
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == code
    assert f"{signal.Signals(number).name}: saved at step" in out
    assert err == ""
    step = load_tensors(tmp_path / "run" / "checkpoint.safetensors")[1]["state"]["trainer"]["step"]
    assert f"saved at step {step};" in out
    with subprocess.Popen(
        [sys.executable, "-m", "gcnet", "train", "--resume", str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert f"resuming at step {step} of 2500" in next(lines_of(process))
        process.kill()


@pytest.mark.slow
def test_the_command_ends_a_diverged_run_with_3_and_names_images(photos, tmp_path):
    arguments = command(photos, tmp_path / "run", "--lr", "1e30", "--epochs", "3")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("gcnet: the loss is ")
    assert ".png" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_full_disk_ends_the_command_with_1(photos, tmp_path, monkeypatch, capsys):
    from gcnet import cli, storage

    write = os.fsync

    def full(descriptor):
        if (tmp_path / "run" / "metrics.jsonl").exists():
            raise OSError(28, "No space left on device")
        write(descriptor)

    monkeypatch.setattr(storage.os, "fsync", full)
    assert cli.main(command(photos, tmp_path / "run", "--epochs", "1")[3:]) == 1
    assert "the disk is full" in capsys.readouterr().err


@pytest.mark.slow
def test_a_full_disk_behind_standard_output_ends_no_training_and_its_lines_go_to_the_log(photos, tmp_path):
    arguments = command(photos, tmp_path / "run", "--steps", "7", "--save-every-steps", "3")
    with open("/dev/full", "w") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    log = (tmp_path / "run" / "output.log").read_text()
    assert "step 7/7" in log and "finished; best top-1" in log


@pytest.mark.slow
@pytest.mark.usefixtures("no_signal_ignored")
@pytest.mark.parametrize("wait", [0.15, 0.7, 1.5, 3.0])
def test_ctrl_c_before_the_training_is_one_line_and_leaves_no_folder(photos, tmp_path, wait):
    arguments = command(photos, tmp_path / "run", "--epochs", "900", "--workers", "2")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(wait)
        while wait > 1 and is_starting(process):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    if wait < 1 and process.returncode != 130:  # on a slow machine Python itself was still starting
        assert "gcnet:" not in err
        assert not (tmp_path / "run").exists()
        return
    assert process.returncode == 130
    assert err in ("gcnet: interrupted\n", "")
    assert bool(err) != ("SIGINT: saved at step" in out)
    assert bool(err) != (tmp_path / "run").exists()
