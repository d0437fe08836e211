"""A run of a toy task: stopped, killed and resumed at any step, and what its folder says afterwards."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from gcnet.errors import UserError
from gcnet.storage import StorageError
from gcnet.tensor_files import Snapshot
from gcnet.training.checkpoint import load_state
from gcnet.training.loop import TrainingLoop
from gcnet.training.losses import NonFiniteLoss
from gcnet.training.pace import SPEED_KEYS
from gcnet.training.progress import Lines as PlainLines
from gcnet.training.progress import Silent
from gcnet.training.run_folder import create_folder
from gcnet.training.settings import OutputSettings
from training.toy import ToyTask, bits, tiny_network, toy_trainer


class Crash(Exception):
    """Stands for a process that is gone."""


class Noise(nn.Module):
    """Draws from the global generators, as user code may (python's is beartype's here, which draws from it)."""

    def forward(self, features):
        if not self.training:
            return features
        return features + 0.1 * np.random.rand() + 0.1 * torch.rand(())


class Lines(Silent):
    def __init__(self):
        self.printed = []

    def log(self, text):
        self.printed.append(text)


def run(folder, *, at=None, steps=50, task=None, reporter=None, recipe=None, **output):
    """One process' part of a run: from the checkpoint, if there is one, to the end or to `at` = (step, what to do)."""
    task = task or ToyTask()
    torch.manual_seed(11)
    np.random.seed(11)
    network = nn.Sequential(tiny_network(dropout=0.3, batch_norm=True), Noise())
    trainer = toy_trainer(task, network, steps=steps, ema_decay=0.9, grad_accumulation=3, **(recipe or {}))
    settings = OutputSettings(**({"save_every_steps": 7, "save_every_epochs": None, "log_every": 4} | output))
    loop = TrainingLoop(trainer, folder, output=settings, reporter=reporter or Silent(), seed=11)
    if folder.checkpoint.exists():
        loop.restore(load_state(folder.checkpoint))
    else:
        folder.rewind(0, 0)
    if at is not None:
        act_at(trainer, *at)
    loop.run()
    return loop


def act_at(trainer, step, action):
    take_step = trainer.train_step

    def acting(batch, votes):
        outcome = take_step(batch, votes)
        if trainer.step == step:
            action()
        return outcome

    trainer.train_step = acting


def crash():
    raise Crash


def sent(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture
def fresh(tmp_path):
    names = iter(range(1000))
    return lambda: create_folder(str(tmp_path / f"run{next(names)}"), "run", {})


def without_times(rows):
    timed = ("seconds", *SPEED_KEYS)
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = create_folder(str(tmp_path_factory.mktemp("unbroken") / "run"), "run", {})
    return run(folder), folder


def test_a_crash_at_any_step_and_a_resumption_give_the_bits_of_an_unbroken_run(whole, fresh):
    unbroken, unbroken_folder = whole
    for step in (1, 7, 8, 17, 33, 34, 50):
        folder = fresh()
        with pytest.raises(Crash):
            run(folder, at=(step, crash))
        resumed = run(folder)
        for name in ("network", "trained"):
            one, other = getattr(unbroken.trainer, name), getattr(resumed.trainer, name)
            assert bits(one) == bits(other), (step, name)
        assert without_times(folder.rows()) == without_times(unbroken_folder.rows()), step
        assert resumed.state.best["score"] == unbroken.state.best["score"]
        assert folder.last.read_text() == unbroken_folder.last.read_text()
        assert folder.best.read_text() == unbroken_folder.best.read_text()


def test_five_crashes_in_one_run_change_no_bit(whole, fresh):
    unbroken, _ = whole
    folder = fresh()
    for step in (9, 22, 23, 36, 48):
        with pytest.raises(Crash):
            run(folder, at=(step, crash))
    resumed = run(folder)
    assert bits(unbroken.trainer.network) == bits(resumed.trainer.network)


def test_saving_evaluating_and_logging_do_not_change_the_training(whole, fresh):
    unbroken, _ = whole
    busy = run(fresh(), save_every_steps=1, save_every_minutes=1e-6, log_every=1, evaluate_every=0.2)
    assert busy.task.evaluated > unbroken.task.evaluated
    assert bits(unbroken.trainer.network) == bits(busy.trainer.network)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_at_the_end_of_the_step_and_stops(whole, fresh, number):
    unbroken, _ = whole
    folder, inherited = fresh(), signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP
    try:
        stopped = run(folder, at=(12, sent(number)))
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, inherited)
    assert stopped.stopped == number
    assert stopped.trainer.step == load_state(folder.checkpoint)["trainer"]["step"] == 12
    resumed = run(folder)
    assert not resumed.stopped
    assert bits(unbroken.trainer.network) == bits(resumed.trainer.network)


def test_a_signal_at_the_end_of_an_epoch_leaves_the_evaluation_to_the_resumed_run(whole, fresh):
    folder = fresh()
    stopped = run(folder, at=(34, sent(signal.SIGTERM)))
    assert stopped.trainer.step == 34
    assert [row["step"] for row in folder.evaluations()] == [17]
    run(folder)
    assert without_times(folder.rows()) == without_times(whole[1].rows())


def test_usr1_saves_and_continues(fresh):
    folder = fresh()
    steps = []

    def look():
        steps.append(load_state(folder.checkpoint)["trainer"]["step"])

    task = ToyTask()
    poisoned = task.whole_batch
    task.whole_batch = lambda step: (look() if step == 6 else None, poisoned(step))[1]
    loop = run(folder, at=(5, sent(signal.SIGUSR1)), task=task, save_every_steps=None)
    assert loop.trainer.step == 50
    assert steps == [5]


def test_a_hangup_that_is_ignored_stays_ignored(fresh):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(fresh(), at=(12, sent(signal.SIGHUP))).trainer.step == 50
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_whose_launcher_has_gone_saves_and_stops(fresh, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    folder = fresh()
    stopped = run(folder, at=(12, lambda: monkeypatch.setattr(os, "getppid", lambda: -1)))
    assert (stopped.stopped, stopped.trainer.step) == (signal.SIGTERM, 12)
    monkeypatch.undo()
    assert run(folder).trainer.step == 50


class Failing:
    """A standard output that fails from the second line on."""

    def __init__(self, error):
        self.error, self.lines = error, []

    def write(self, text):
        if self.lines:
            raise self.error
        self.lines.append(text)

    def flush(self):
        pass

    def fileno(self):
        raise io.UnsupportedOperation

    def isatty(self):
        return False


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space"), OSError(5, "I/O"), ValueError("closed file")]
)
def test_a_failing_standard_output_does_not_end_the_run(whole, fresh, monkeypatch, error):
    folder, reporter, output = fresh(), PlainLines(), Failing(error)
    reporter.output.log = folder.log
    monkeypatch.setattr(sys, "stdout", output)
    finished = run(folder, reporter=reporter)
    assert bits(finished.trainer.network) == bits(whole[0].trainer.network)
    assert len(output.lines) == 1
    assert sum("step 50/50" in line for line in folder.log.read_text().splitlines()) == 1


def test_a_second_interrupt_ends_the_process_at_once_with_130():
    script = textwrap.dedent("""
        import os, signal, time
        from gcnet.training.signals import handle_signals
        with handle_signals() as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert request.stop == signal.SIGINT
            print("still here", flush=True)
            os.kill(os.getpid(), signal.SIGINT)
            print("not reached", flush=True)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 130
    assert done.stdout == "still here\n"
    assert "ended without saving" in done.stderr


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint_and_lists_the_images(fresh):
    folder = fresh()
    with pytest.raises(NonFiniteLoss):
        run(folder, task=ToyTask(poison=30))
    assert load_state(folder.checkpoint)["trainer"]["step"] == 28
    report = json.loads((folder.path / "non_finite.json").read_text())
    assert report["step"] == 31
    assert "30/5" in report["images"]


def test_a_full_disk_is_reported_and_keeps_the_old_checkpoint(fresh, monkeypatch):
    folder = fresh()
    from gcnet import storage

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"disk is full \(needed [\d,]+ bytes, free [\d,]+\)"):
        run(folder, at=(10, lambda: monkeypatch.setattr(storage.os, "fsync", full)))
    monkeypatch.undo()
    assert load_state(folder.checkpoint)["trainer"]["step"] == 7
    assert run(folder).trainer.step == 50


@pytest.mark.parametrize("step", [8, 17, 33])
def test_a_crash_of_a_run_that_saves_in_a_thread_and_a_resumption_give_the_bits_of_an_unbroken_run(whole, fresh, step):
    folder = fresh()
    with pytest.raises(Crash):
        run(folder, at=(step, crash), save_async=True, save_every_steps=1)
    assert load_state(folder.checkpoint)["trainer"]["step"] == step - 1
    resumed = run(folder, save_async=True)
    assert bits(whole[0].trainer.network) == bits(resumed.trainer.network)
    assert without_times(folder.rows()) == without_times(whole[1].rows())


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_training_continues_while_a_thread_writes_the_state_of_the_step_that_saved(whole, fresh, monkeypatch):
    folder, seen, reached, write = fresh(), [], threading.Event(), Snapshot.write

    def waiting(self, path):
        assert reached.wait(60)
        write(self, path)

    def look():
        seen.append(folder.checkpoint.exists())
        reached.set()

    monkeypatch.setattr(Snapshot, "write", waiting)
    finished = run(folder, save_async=True, save_every_steps=30, at=(45, look))
    assert seen == [False]
    assert load_state(folder.checkpoint)["trainer"]["step"] == finished.trainer.step == 50
    assert bits(whole[0].trainer.network) == bits(finished.trainer.network)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_checkpoint_in_a_thread(fresh, monkeypatch, number):
    """Each checkpoint waits a second before it is written."""
    folder, write = fresh(), Snapshot.write
    monkeypatch.setattr(Snapshot, "write", lambda self, path: (time.sleep(1), write(self, path)))
    stopped = run(folder, at=(12, sent(number)), save_async=True, save_every_steps=11)
    assert stopped.stopped == number
    assert load_state(folder.checkpoint)["trainer"]["step"] == 12


@pytest.mark.parametrize(("step", "stops"), [(10, False), (14, True)])
def test_a_full_disk_is_reported_by_the_step_after_a_write_in_a_thread_or_at_the_end(fresh, monkeypatch, step, stops):
    folder, sync = fresh(), os.fsync
    from gcnet import storage

    def full(descriptor):
        if threading.current_thread() is threading.main_thread():  # which may write weights before the thread fails
            return sync(descriptor)
        raise OSError(28, "No space left on device")

    def fill():
        wait_until(folder.checkpoint.exists)  # of step 7
        monkeypatch.setattr(storage.os, "fsync", full)
        if stops:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StorageError, match=r"checkpoint.*disk is full \(needed .*; the old file is unchanged"):
        run(folder, at=(step, fill), save_async=True)
    monkeypatch.undo()
    assert load_state(folder.checkpoint)["trainer"]["step"] == 7
    assert [thread.name for thread in threading.enumerate() if "checkpoint" in thread.name] == []
    assert run(folder).trainer.step == 50


def test_a_flipped_bit_in_the_checkpoint_is_refused(fresh):
    folder = fresh()
    run(folder, steps=9)
    data = bytearray(folder.checkpoint.read_bytes())
    data[len(data) // 2] ^= 4
    folder.checkpoint.write_bytes(data)
    with pytest.raises(StorageError, match="checksum"):
        run(folder, steps=9)


def test_rows_and_results_have_one_entry_each(whole):
    _, folder = whole
    rows = folder.rows()
    assert [row["step"] for row in rows if row["kind"] == "train"] == [*range(4, 50, 4), 50]
    assert [row["step"] for row in rows if row["kind"] == "evaluation"] == [17, 34, 50]
    with folder.results.open() as file:
        table = list(csv.DictReader(file))
    assert [int(row["step"]) for row in table] == [17, 34, 50]
    assert [float(row["score"]) for row in table] == [row["score"] for row in folder.evaluations()]


def test_the_training_loss_of_an_epoch_is_the_mean_over_its_images(fresh):
    task, folder = ToyTask(), fresh()
    task.dropped = {3: [0, 4, 6]}
    sums = []
    loop = run(folder, steps=17, task=task, at=(99, crash), log_every=1)
    for row in folder.rows():
        if row["kind"] == "train":
            sums.append(row["loss"] * (9 if row["step"] == 4 else 12))
    assert loop.state.last["train_loss"] == pytest.approx(sum(sums) / (16 * 12 + 9), rel=1e-9)


def test_a_line_that_a_crash_cut_off_is_dropped(fresh):
    folder = fresh()
    with pytest.raises(Crash):
        run(folder, at=(10, crash))
    with folder.metrics.open("a") as file:
        file.write('{"kind": "train", "st')
    run(folder)
    assert [row["step"] for row in folder.rows() if row["kind"] == "train"] == [*range(4, 50, 4), 50]


def test_the_best_weights_are_those_of_the_best_evaluation(whole):
    loop, folder = whole
    best = max(folder.evaluations(), key=lambda row: row["score"])
    assert loop.state.best == best
    assert (folder.best.read_text() == folder.last.read_text()) == (best["step"] == 50)
    assert folder.best.samefile(folder.last) == (best["step"] == 50)


def test_an_unreadable_image_is_named_once_and_counted(fresh):
    class Unlucky(ToyTask):
        def batches(self, first_step, device):
            for batch in super().batches(first_step, device):
                batch.skipped.append(type("Skipped", (), {"name": "a/broken.png", "reason": "truncated"})())
                yield batch

    folder, lines = fresh(), Lines()
    loop = run(folder, task=Unlucky(), reporter=lines)
    assert [line for line in lines.printed if "broken" in line] == ["skipped a/broken.png: truncated"]
    assert loop.state.last["skipped_total"] == 1
    assert folder.skipped.read_text() == "name,reason\na/broken.png,truncated\n"


def test_many_skipped_images_are_written_every_ten_seconds_and_at_the_end(fresh, monkeypatch):
    class Damaged(ToyTask):
        def batches(self, first_step, device):
            for number, batch in enumerate(super().batches(first_step, device)):
                names = [f"{number}-{index}.png" for index in range(50)]
                batch.skipped.extend(type("Skipped", (), {"name": name, "reason": "truncated"})() for name in names)
                yield batch

    folder, written = fresh(), []
    write = folder.write_skipped
    monkeypatch.setattr(folder, "write_skipped", lambda skipped: (written.append(len(skipped)), write(skipped)))
    loop = TrainingLoop(
        toy_trainer(Damaged(), steps=40),
        folder,
        output=OutputSettings(plots=False, evaluate_every=1000.0),
        reporter=Silent(),
        seed=0,
    )
    loop.run()
    assert written[-1] == 2000 == len(folder.skipped.read_text().splitlines()) - 1
    assert len(written) <= 3  # 2,000 images, 40 steps, one evaluation at the end


def test_an_epoch_without_a_readable_image_is_refused(fresh):
    task = ToyTask()
    task.dropped = {step: list(range(12)) for step in range(17)}
    with pytest.raises(UserError, match="no training image could be read"):
        run(fresh(), task=task)


def test_a_finished_run_takes_no_further_step(whole):
    _, folder = whole
    before = folder.checkpoint.read_bytes()
    again = run(folder)
    assert again.task.evaluated == 0
    assert again.trainer.step == 50
    assert folder.checkpoint.read_bytes() == before
