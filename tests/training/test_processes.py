"""Two gloo processes against one, and a real training killed with SIGKILL at random moments."""

import os
import random
import signal
import time

import pytest
import torch

from gcnet.models.model_file import read_model_file
from gcnet.tensor_files import load_tensors
from gcnet.training.pace import SPEED_KEYS
from gcnet.training.run_folder import RunFolder
from training.photos import (
    exit_codes,
    fast_start,
    run,
    run_alone,
    run_as_two,
    settings_for,
    small_network,
    steady_network,
    write_photos,
)

PATIENCE = 240


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = write_photos(tmp_path_factory.mktemp("photos"))
    (root / "train" / "green" / "4.png").write_bytes(b"damaged")
    (root / "val" / "blue" / "5.png").write_bytes(b"damaged")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("grad_accumulation", [1, 5])
def test_two_processes_train_as_one_with_the_same_global_batch(photos, tmp_path, grad_accumulation):
    plain = {"mixup": 0.0, "cutmix": 0.0, "grad_accumulation": grad_accumulation, "clip_grad_norm": 0.5}
    alone = run(settings_for(photos, tmp_path / "alone", **plain), steady_network)
    settings = settings_for(photos, tmp_path / "two", **plain)
    assert exit_codes(run_as_two(settings, steady_network), PATIENCE) == [0, 0]
    expected, found = (read_model_file(path)[0] for path in (alone.last_weights, RunFolder(tmp_path / "two").last))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    one, other = (RunFolder(tmp_path / name) for name in ("alone", "two"))
    for row, twin in zip(one.rows(), other.rows(), strict=True):
        assert row.keys() == twin.keys()
        for name in row.keys() - {"seconds", "kind", *SPEED_KEYS}:
            assert twin[name] == pytest.approx(row[name], rel=1e-5), (name, row["step"])
    assert one.evaluations()[-1]["images"] == 20
    assert one.skipped.read_text() == other.skipped.read_text()


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_they_resume_to_the_same_bits(photos, tmp_path):
    quick = {"epochs": 60.0, "evaluate_every": 20.0, "save_every_steps": 100}
    unbroken = settings_for(photos, tmp_path / "unbroken", **quick)
    assert exit_codes(run_as_two(unbroken, small_network), PATIENCE) == [0, 0]
    settings = settings_for(photos, tmp_path / "run", **quick)
    processes = run_as_two(settings, small_network)
    metrics = RunFolder(tmp_path / "run").metrics
    while not metrics.exists() and all(process.is_alive() for process in processes):
        time.sleep(0.01)
    os.kill(processes[1].pid, signal.SIGTERM)
    assert exit_codes(processes, PATIENCE) == [143, 143]
    state = load_tensors(tmp_path / "run" / "checkpoint.safetensors")[1]["state"]
    assert 0 < state["trainer"]["step"] < 300
    assert len(state["processes"]) == 2
    assert exit_codes(run_as_two(settings, small_network), PATIENCE) == [0, 0]
    unbroken, resumed = (RunFolder(tmp_path / name).last.read_bytes() for name in ("unbroken", "run"))
    assert unbroken == resumed


def wait_for_saves(process, checkpoint, count):
    """Wait until a checkpoint has been saved that many times more, or the process has ended."""
    until = time.monotonic() + PATIENCE
    for _ in range(count):
        before = checkpoint.stat().st_ino if checkpoint.exists() else None
        while process.is_alive() and (not checkpoint.exists() or checkpoint.stat().st_ino == before):
            assert time.monotonic() < until
            time.sleep(0.002)


@pytest.mark.slow
def test_a_training_killed_again_and_again_at_random_moments_ends_with_the_same_bits(photos, tmp_path):
    changes = {"model": "cifar_resnet20", "block": "gc", "epochs": 8.0, "save_every_steps": 1, "grad_accumulation": 2}
    unbroken = fast_start().Process(
        target=run_alone, args=(settings_for(photos, tmp_path / "unbroken", **changes), None)
    )
    unbroken.start()
    assert exit_codes([unbroken], PATIENCE) == [0]
    row = RunFolder(tmp_path / "unbroken").rows()[-1]
    dice, seconds_per_step = random.Random(4), row["seconds"] / row["step"]
    settings = settings_for(photos, tmp_path / "run", **changes)
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    steps = []
    for saves in dice.sample([0, 0, 0, 1, 1, 1, 2, 2, 3, 3], 10):
        part = fast_start().Process(target=run_alone, args=(settings, None))
        part.start()
        wait_for_saves(part, checkpoint, saves)
        part.join(dice.uniform(0.0, 1.5) * seconds_per_step)
        if part.exitcode is not None:  # on a busy machine, this process may wait for longer
            break
        part.kill()
        part.join()
        steps.append(load_tensors(checkpoint)[1]["state"]["trainer"]["step"] if checkpoint.exists() else 0)
    assert steps == sorted(steps)
    assert len(set(steps)) > 3, f"killed too early or too seldom to show anything: after steps {steps}"
    if part.exitcode == -signal.SIGKILL:
        part = fast_start().Process(target=run_alone, args=(settings, None))
        part.start()
    assert exit_codes([part], PATIENCE) == [0]
    for name in ("last", "best"):
        assert (
            getattr(RunFolder(tmp_path / "run"), name).read_bytes()
            == getattr(RunFolder(tmp_path / "unbroken"), name).read_bytes()
        )
    assert not list((tmp_path / "run").rglob("*.tmp"))
