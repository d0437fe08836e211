"""Runs on real image files: what they leave behind, and that resuming them changes no bit."""

import json
import os

import pytest
import torch
from PIL import Image

from gcnet.cli.train import Settings
from gcnet.cli.train import run as run_verb
from gcnet.errors import UserError
from gcnet.insertion import inserted
from gcnet.models.load import load_model
from gcnet.models.model_file import read_model_file
from gcnet.tasks.classification.training import ClassificationTraining
from gcnet.tasks.registry import open_task
from gcnet.training.distributed import Processes
from gcnet.training.progress import Silent
from gcnet.training.run_folder import open_folder
from gcnet.training.settings import TrainSettings, override
from gcnet.training.task import micro_batches
from gcnet.workflows.dry_run import dry_run
from gcnet.workflows.resume import resume
from gcnet.workflows.train import run_training
from training.photos import CLASSES, run, settings_for, small_network, write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    return run(settings_for(photos, tmp_path_factory.mktemp("whole") / "run"))


def weights_of(result):
    return result.last_weights.read_bytes()


def crash_at(monkeypatch, step):
    take_step = ClassificationTraining.prepare

    def prepare(self, batch, at, device):
        if at == step:
            raise KeyboardInterrupt
        return take_step(self, batch, at, device)

    monkeypatch.setattr(ClassificationTraining, "prepare", prepare)


@pytest.mark.parametrize("step", [1, 4, 5, 8, 13])
@pytest.mark.slow
def test_a_broken_run_ends_with_the_same_bits(photos, tmp_path, whole, monkeypatch, step):
    settings = settings_for(photos, tmp_path / "run")
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            run(settings)
    resumed = run(settings)
    assert weights_of(resumed) == weights_of(whole)
    assert resumed.best_weights.read_bytes() == whole.best_weights.read_bytes()


@pytest.mark.parametrize(("first", "second"), [(2, 0), (0, 2), (1, 2)])
@pytest.mark.slow
def test_any_number_of_workers_before_and_after_gives_the_same_bits(
    photos, tmp_path, whole, monkeypatch, first, second
):
    with monkeypatch.context() as patch:
        crash_at(patch, 8)
        with pytest.raises(KeyboardInterrupt):
            run(settings_for(photos, tmp_path / "run", workers=first))
    resumed = run(settings_for(photos, tmp_path / "run", workers=second))
    assert weights_of(resumed) == weights_of(whole)


def test_accumulated_adamw_in_channels_last_resumes_to_the_bit(photos, tmp_path, monkeypatch):
    changes = {"optimizer": "adamw", "grad_accumulation": 2, "channels_last": True, "clip_grad_norm": 1.0, "lr": 0.01}
    unbroken = run(settings_for(photos, tmp_path / "unbroken", **changes))
    with monkeypatch.context() as patch:
        crash_at(patch, 11)
        with pytest.raises(KeyboardInterrupt):
            run(settings_for(photos, tmp_path / "run", **changes))
    assert weights_of(run(settings_for(photos, tmp_path / "run"))) == weights_of(unbroken)


def test_another_seed_gives_another_run(photos, tmp_path, whole):
    assert weights_of(run(settings_for(photos, tmp_path / "run", seed=8))) != weights_of(whole)


@pytest.fixture(scope="module")
def pictured(photos, tmp_path_factory):
    """A run of a network by name, with everything that it leaves."""
    output = tmp_path_factory.mktemp("pictured") / "run"
    changes = {"model": "cifar_resnet20", "block": "gc", "block_options": ("fusion=both",), "plots": True}
    return run(settings_for(photos, output, epochs=2.0, block_lr_mult=3.0, **changes), None)


@pytest.mark.slow
def test_a_run_leaves_all_that_its_folder_promises(pictured):
    names = {str(path.relative_to(pictured.folder)) for path in pictured.folder.rglob("*") if path.is_file()}
    assert names == {
        *("config.json", "environment.json", "metrics.jsonl", "results.csv", "checkpoint.safetensors"),
        *("data.csv.gz", ".lock"),
        *("curves.png", "confusion.png", "train_images.png", "weights/best.safetensors", "weights/last.safetensors"),
    }
    for name in ("curves.png", "confusion.png", "train_images.png"):
        with Image.open(pictured.folder / name) as picture:
            assert min(picture.size) > 100
    start = json.loads((pictured.folder / "environment.json").read_text())[0]
    assert start["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert start["threads"] == 1
    assert open_folder(pictured.folder)[1].recipe.steps == pictured.steps == 10


def test_errors_for_weights_explain_their_use(pictured):
    card = read_model_file(pictured.best_weights)[1]
    assert card.class_names == CLASSES
    assert card.preprocessing["image_size"] == 11
    assert card.insertions[0]["block"] == "gc"
    assert card.insertions[0]["options"] == {"fusion": "both"}
    rebuilt = load_model(pictured.last_weights)
    assert rebuilt(torch.zeros(2, 3, 11, 11)).shape == (2, 3)


def test_the_reported_accuracy_is_that_of_the_saved_weights(pictured, photos):
    from gcnet.data.images.open import open_data

    splits = open_data(settings_for(photos, photos).data)
    network, transform = load_model(pictured.last_weights), splits.eval_transform()
    hits = 0
    for index in range(len(splits.val)):
        with torch.no_grad():
            hits += int(network(transform(splits.val.read(index))[None]).argmax()) == splits.val.label(index)
    assert pictured.last["top1_fraction"] == pytest.approx(hits / 21)
    assert pictured.last["images"] == 21


def test_a_network_of_the_user_needs_its_builder_again(whole):
    with pytest.raises(UserError, match="network of your own"):
        resume(whole.folder)
    again = resume(whole.folder, build_model=small_network, reporter=Silent())
    assert again.finished
    assert (again.best, again.last) == (whole.best, whole.last)


def test_damaged_images_are_skipped_named_once_and_counted(tmp_path):
    photos = write_photos(tmp_path / "photos")
    (photos / "train" / "red" / "3.png").write_bytes(b"no image")
    (photos / "val" / "red" / "2.png").write_bytes((photos / "val" / "red" / "1.png").read_bytes()[:60])
    result = run(settings_for(photos, tmp_path / "run"))
    assert set(result.skipped) == {"red/3.png", "red/2.png"}
    assert (result.last["images"], result.last["skipped"], result.last["skipped_total"]) == (20, 1, 2)
    assert (result.folder / "skipped.csv").read_text().count("red/3.png") == 1


def test_frozen_parameters_and_norms_stay_as_they_were(photos, tmp_path):
    changes = {
        "model": "cifar_resnet20",
        "freeze": ("layer1.*", "conv1.*"),
        "freeze_bn_stats": True,
        "ema_decay": None,
        "lr": 1e-4,
    }
    start = run(settings_for(photos, tmp_path / "start", model="cifar_resnet20", steps=1, epochs=None), None)
    settings = settings_for(photos, tmp_path / "run", weights=str(start.last_weights), steps=3, epochs=None, **changes)
    before, after = (read_model_file(path)[0] for path in (start.last_weights, run(settings, None).last_weights))
    for name, tensor in before.items():
        frozen = name.startswith(("layer1.", "conv1.")) or "running" in name or "num_batches" in name
        assert torch.equal(tensor, after[name]) == frozen, name


MISTAKES = {
    "folder that is taken": ({"output": "taken"}, "must not exist yet"),
    "unknown block": ({"block": "gcc"}, 'unknown block "gcc"; did you mean "gc"'),
    "unknown model": ({"model": "cifar_resnet21"}, 'did you mean "cifar_resnet20"'),
    "freezing nothing": ({"freeze": ("layer9.*",)}, "`freeze=layer9.*` matches no parameter"),
    "batch larger than the set": ({"batch_size": 1000}, "batch"),
    "missing data": ({"data": "nowhere/photos"}, "nowhere/photos"),
    "learning rate of no blocks": ({"block_lr_mult": 2.0}, "no inserted blocks"),
    "no such device": ({"device": "cuda:77"}, "cuda:77"),
    "odd device": ({"device": "tpu"}, "auto, cpu, cuda or cuda:N"),
}


@pytest.mark.parametrize(("changes", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_usage_error_is_one_sentence_and_leaves_no_folder(photos, tmp_path, monkeypatch, changes, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    settings = override(settings_for(photos, tmp_path / "run", model="cifar_resnet20"), **changes)
    with pytest.raises(UserError) as raised:
        run_training(settings, reporter=Silent())
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]


def test_without_an_output_runs_are_numbered(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = override(settings_for(photos, tmp_path), output=None, steps=1, epochs=None, model="cifar_resnet20")
    name = f"cifar_resnet20-{photos.name}"
    for expected in (name, f"{name}-2"):
        assert str(run_training(settings, build_model=small_network, reporter=Silent()).folder) == f"runs/{expected}"


def test_an_existing_run_is_never_overwritten(photos, whole):
    with pytest.raises(UserError, match="never overwritten; resume it with `gcnet.resume[(]"):
        run_training(settings_for(photos, whole.folder), reporter=Silent())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda _path: None, "there is no run folder"),
        (lambda path: path.write_text(""), "is a file"),
        (lambda path: path.mkdir(), "has no config.json"),
        (lambda path: (path.mkdir(), (path / "config.json").write_text("{")), "is damaged: it is not JSON"),
    ],
    ids=["nothing", "file", "empty folder", "damaged config"],
)
def test_resuming_anything_but_a_run_folder_is_an_error(tmp_path, make, sentence):
    make(tmp_path / "run")
    with pytest.raises(UserError, match=sentence):
        resume(tmp_path / "run")


def test_only_workers_and_device_are_accepted_with_resume():
    with pytest.raises(UserError, match="found --lr"):
        Settings(resume="run", recipe=override(TrainSettings(), lr=0.3).recipe)
    Settings(resume="run", data=override(TrainSettings(), workers=2).data)


def test_a_dry_run_reports_the_cost_of_a_run_and_writes_nothing(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = settings_for(photos, tmp_path / "run", model="cifar_resnet20", block="gc", epochs=None, steps=12)
    estimate = dry_run(settings)
    assert (estimate.steps, estimate.evaluations) == (12, 3)
    assert estimate.total_seconds > 12 * estimate.step_seconds > 0
    assert estimate.memory > 2**20
    # By hand: the stem convolution alone, a multiply-add being two.
    assert estimate.flops > 2 * 3 * 16 * 9 * 11 * 11
    groups = {name: getattr(settings, name) for name in ("network", "data", "augment", "recipe", "machine", "output")}
    assert run_verb(Settings(dry_run=True, **groups)) == 0
    assert "MiB" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_run_reports_its_insertion_sites_and_its_file_rebuilds_them(photos, tmp_path, capsys):
    changes = {"model": "cifar_resnet20", "block": "gc", "insert_at": ("layer2.*", "c3"), "epochs": None, "steps": 2}
    settings = settings_for(photos, tmp_path / "run", **changes)
    printed = "gc with ratio 4 on the output of 6 modules: layer2: 0, 1, 2 (32 channels)"
    result = run_training(settings)
    assert printed in capsys.readouterr().out
    rebuilt = load_model(result.last_weights)
    assert [site.name for site in inserted(rebuilt)[0].sites] == [f"layer{n}.{i}" for n in (2, 3) for i in range(3)]
    assert printed in str(dry_run(settings))


def test_names_that_are_not_utf_8_and_control_characters_end_no_training(tmp_path, capsys):
    photos = write_photos(tmp_path / "photos", train_images=4, val_images=2)
    for split in ("train", "val"):
        os.rename(photos / split / "red", os.fsencode(photos / split) + b"/caf\xe9\x1b[31m")
        os.rename(photos / split / "blue" / "0.png", os.fsencode(photos / split / "blue") + b"/\xff.png")
    with open(os.fsencode(photos / "train" / "blue") + b"/broken\xfe\n.png", "wb") as file:
        file.write(b"no image")
    settings = override(settings_for(photos, tmp_path / "run", model="cifar_resnet20", epochs=1.0), plots=True)
    assert run_training(settings).finished
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert r"skipped blue/broken\udcfe\n.png: not an image" in printed
    assert (tmp_path / "run" / "confusion.png").exists()
    assert b"broken\xfe" in (tmp_path / "run" / "skipped.csv").read_bytes()


def test_an_automatic_batch_size_is_recorded_in_numbers_and_gives_the_run_of_these(photos, tmp_path, monkeypatch):
    losses = ClassificationTraining.losses

    def limited(task, network, batch):
        if len(batch.names) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return losses(task, network, batch)

    monkeypatch.setattr(ClassificationTraining, "losses", limited)
    changes = {"steps": 2, "epochs": None}
    count = len(open_task(settings_for(photos, tmp_path / "count"), Processes()).splits.train)
    automatic = settings_for(photos, tmp_path / "automatic", batch_size="auto", **changes)
    run(automatic)
    recipe = open_folder(tmp_path / "automatic")[1].recipe
    assert recipe.batch_size == count  # the default is reduced to the number of images
    assert max(micro.stop - micro.start for micro in micro_batches(count, recipe.grad_accumulation)) <= 5
    numbers = {"batch_size": count, "grad_accumulation": recipe.grad_accumulation}
    run(settings_for(photos, tmp_path / "given", **numbers, **changes))
    first, second = (tmp_path / name / "weights" / "last.safetensors" for name in ("automatic", "given"))
    assert first.read_bytes() == second.read_bytes()
