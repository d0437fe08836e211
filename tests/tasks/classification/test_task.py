"""Classification as a task: mixing, micro-batches, what is drawn; and what is said of a run's progress."""

import io
import threading

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional

from gcnet.data.loader import build_loader
from gcnet.tasks.classification.training import open_classification
from gcnet.training.distributed import Processes
from gcnet.training.progress import Lines, LiveBar, clock
from gcnet.training.signals import handle_signals
from gcnet.visualization import images as sheets
from training.photos import CLASSES, settings_for, write_photos

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


def task_with(photos, **changes):
    plain = {"mixup": 0.0, "cutmix": 0.0, "color_jitter": 0.0, "erasing": 0.0, "label_smoothing": 0.0}
    return open_classification(settings_for(photos, photos, **(plain | changes)), Processes())


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_depends_on_the_step_and_leaves_the_global_generator_alone(photos, kind):
    task = task_with(photos, **{kind: 1.0})
    batch = next(task.batches(0, CPU))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = task.prepare(batch, 3, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = task.prepare(batch, 3, CPU), task.prepare(batch, 4, CPU)
    assert torch.equal(first.images, again.images) and torch.equal(first.targets, again.targets)
    assert not torch.equal(first.images, other.images)
    assert first.targets.shape == (10, 3)
    torch.testing.assert_close(first.targets.sum(1), torch.ones(10))


def test_mixup_is_the_stated_blend_of_an_image_with_its_neighbour(photos):
    task = task_with(photos, mixup=1.0)
    batch = next(task.batches(0, CPU))
    mixed = task.prepare(batch, 0, CPU)
    labels = functional.one_hot(batch.labels, 3).float()
    images = batch.inputs()
    neighbors = images.roll(1, 0)
    differ = int((batch.labels != batch.labels.roll(1)).nonzero()[0])
    share = float(mixed.targets[differ, batch.labels[differ]])
    torch.testing.assert_close(mixed.images, share * images + (1 - share) * neighbors, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed.targets, share * labels + (1 - share) * labels.roll(1, 0))


def test_both_kinds_of_mixing_are_drawn_in_turn(photos):
    task = task_with(photos, mixup=1.0, cutmix=1.0, random_crop="none")
    batch = next(task.batches(0, CPU))
    kept = [bool((task.prepare(batch, step, CPU).images == batch.inputs()).float().mean() > 0.05) for step in range(20)]
    assert 3 < sum(kept) < 17  # cutmix leaves some pixels as they are, mixup none


def test_the_loss_is_the_smoothed_cross_entropy(photos):
    task = task_with(photos, label_smoothing=0.2)
    batch = task.prepare(next(task.batches(0, CPU)), 0, CPU)
    logits = torch.randn(10, 3)
    wanted = functional.one_hot(batch.targets, 3) * 0.8 + 0.2 / 3
    expected = -(wanted * logits.log_softmax(1)).sum(1).mean()
    network = nn.Identity()
    network.register_forward_hook(lambda *_: logits)
    found = task.losses(network, batch)["loss"]
    torch.testing.assert_close(found, expected)


def test_class_weights_scale_the_loss_of_each_image_by_hand(photos):
    task = task_with(photos, class_weights="balanced", label_smoothing=0.1)
    task._weights = torch.tensor([0.5, 2.0, 3.0])
    batch = task.prepare(next(task.batches(0, CPU)), 0, CPU)
    logits = torch.randn(10, 3)
    network = nn.Identity()
    network.register_forward_hook(lambda *_: logits)
    each = [
        functional.cross_entropy(row[None], target[None], label_smoothing=0.1) * task._weights[target]
        for row, target in zip(logits, batch.targets, strict=True)
    ]
    torch.testing.assert_close(task.losses(network, batch)["loss"], sum(each) / 10)


def test_class_weights_follow_the_training_images_and_leave_the_default_loss_alone(photos):
    assert task_with(photos)._weights is None
    assert task_with(photos, class_weights="balanced")._weights.tolist() == pytest.approx([1, 1, 1])


def test_micro_batches_hold_every_image_once(photos):
    task = task_with(photos)
    batch = task.prepare(next(task.batches(0, CPU)), 0, CPU)
    parts = task.split(batch, 4)
    assert [len(part.names) for part in parts] == [2, 3, 2, 3]
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert [name for part in parts for name in part.names] == batch.names


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True)])
def test_batches_are_page_locked_for_the_device_that_trains(tmp_path, monkeypatch, device, pinned):
    made = []

    def recorded(*arguments, **options):
        made.append(options)
        return build_loader(*arguments, **options | {"pin_memory": False})

    monkeypatch.setattr("gcnet.tasks.classification.training.build_loader", recorded)
    photos = write_photos(tmp_path / "data", train_images=4, val_images=1)
    task = open_classification(settings_for(photos, tmp_path / "run", workers=0), Processes())
    next(task.batches(0, torch.device(device)))
    assert (made[0]["pin_memory"], made[0]["persistent"]) == (pinned, True)


def test_batches_from_a_later_step_equal_those_of_an_uninterrupted_loader(photos):
    task = task_with(photos)
    steps = [batch for batch, _ in zip(task.batches(0, CPU), range(12), strict=False)]
    for start in (3, 5, 11):
        batch = next(task_with(photos).batches(start, CPU))
        assert batch.names == steps[start].names
        assert torch.equal(batch.images, steps[start].images)


def test_training_images_are_drawn_with_normalization_undone(photos, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        sheets, "contact_sheet", lambda images, titles, _path, **_: drawn.update(images=images, titles=titles)
    )
    task = task_with(photos, random_crop="none", hflip=0.0)
    batch = next(task.batches(0, CPU))
    task.draw_inputs(task.prepare(batch, 0, CPU), tmp_path / "sheet.png")
    names = [task.splits.train.name(index) for index in range(len(task.splits.train))]
    for image, title, name in zip(drawn["images"], drawn["titles"], batch.names, strict=True):
        assert np.array_equal(image, np.asarray(task.splits.train.read(names.index(name))))
        assert title == name.split("/")[0] in CLASSES


def test_signals_are_left_alone_outside_the_main_thread():
    seen = []

    def listen():
        with handle_signals() as wishes:
            seen.append((wishes.stop, wishes.save))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [(0, False)]


def test_piped_progress_is_plain_lines_at_a_slow_pace(capsys):
    lines = Lines()
    for step in range(1, 100):
        lines.advance(step, 100, "loss 1")
    lines.log("epoch 1")
    lines._spoke -= 60
    lines.advance(100, 100, "loss 0")
    out = capsys.readouterr().out
    assert out == "epoch 1\nstep 100/100  loss 0  0:00 left\n"


def test_on_a_terminal_there_is_a_bar_with_the_time_left():
    bar = LiveBar()
    bar._bar.live.console = Console(file=io.StringIO(), force_terminal=True, width=120)
    for step in (1, 2, 3):
        bar.advance(step, 7, "loss [0.5]")
    bar.log("results in [runs/a]")
    bar.close()
    written = bar._bar.console.file.getvalue()
    assert "3/7" in written and "left" in written
    assert "results in [runs/a]" in written and "loss [0.5]" in written


def test_the_clock_is_readable():
    assert [clock(value) for value in (None, 0.4, 61, 4000)] == ["?", "0:00", "1:01", "1:06:40"]
