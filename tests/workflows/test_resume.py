"""Resuming a run: one process at a time, with the data that it knows, for as long as it is asked to."""

import fcntl
import gzip
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gcnet.cli import main
from gcnet.errors import UserError
from gcnet.storage import StorageError
from gcnet.training.checkpoint import load_state
from gcnet.training.data_record import compare_data, record_data
from gcnet.training.loop import TrainingLoop
from gcnet.training.progress import Silent
from gcnet.training.run_folder import open_folder
from gcnet.workflows.resume import resume
from gcnet.workflows.train import run_training
from training.photos import StoppingAt, settings_for, small_network, steady_network, write_photos


class Lines(Silent):
    def __init__(self) -> None:
        self.printed: list[str] = []

    def log(self, text: str) -> None:
        self.printed.append(text)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and run/, which SIGTERM stopped at step 4 of 15."""
    place = tmp_path_factory.mktemp("stopped")
    settings = settings_for(write_photos(place / "data"), place / "run")
    result = run_training(settings, build_model=steady_network, reporter=StoppingAt(4))
    assert (result.stopped, result.steps) == (signal.SIGTERM, 4)
    return place


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    """A copy of `stopped`, whose run takes its data from there."""
    shutil.copytree(stopped, tmp_path / "copy")
    config = tmp_path / "copy" / "run" / "config.json"
    config.write_text(config.read_text().replace(str(stopped), str(tmp_path / "copy")))
    return tmp_path / "copy"


def resumed(place: Path, **options: Any) -> tuple[Any, list[str]]:
    lines = Lines()
    return resume(place / "run", build_model=steady_network, reporter=lines, **options), lines.printed


def test_unchanged_data_are_resumed_without_a_word(copy: Path) -> None:
    result, printed = resumed(copy)
    assert result.finished
    assert not any("data changed" in line for line in printed)


def test_a_renamed_class_is_refused_and_named(copy: Path) -> None:
    for split in ("train", "val"):
        (copy / "data" / split / "blue").rename(copy / "data" / split / "violet")
    before = (copy / "run" / "checkpoint.safetensors").read_bytes()
    with pytest.raises(UserError, match="classes of the data changed .*added violet; removed blue"):
        resumed(copy)
    assert (copy / "run" / "checkpoint.safetensors").read_bytes() == before


def test_an_added_class_is_refused_and_named(copy: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(copy / "data" / split / "blue", copy / "data" / split / "amber")
    with pytest.raises(UserError, match="added amber"):
        resumed(copy)


def test_added_removed_and_replaced_images_are_counted(copy: Path) -> None:
    run_training = copy / "data" / "train"
    for name in ("90", "91"):
        shutil.copy(run_training / "red" / "0.png", run_training / "red" / f"{name}.png")
    (run_training / "green" / "3.png").unlink()
    Image.new("RGB", (37, 41), (3, 200, 7)).save(copy / "data" / "val" / "blue" / "1.png")
    result, printed = resumed(copy)
    assert result.finished
    changes = [line for line in printed if "data changed" in line]
    assert len(changes) == 1
    assert "files 2 added, 1 removed, 1 changed" in changes[0]


def test_data_that_moved_are_named_once(copy: Path) -> None:
    (copy / "data").rename(copy / "elsewhere")
    with pytest.raises(UserError, match="the run needs .*data, which does not exist: .* give the new `data`"):
        resumed(copy)
    with pytest.raises(
        UserError, match="`data=.* must be the data of the run at a new path, but they differ: files 1 removed"
    ):
        other = copy / "other"
        shutil.copytree(copy / "elsewhere", other)
        (other / "train" / "red" / "0.png").unlink()
        resumed(copy, data=str(other))
    resumed(copy, data=str(copy / "elsewhere"), steps=15)
    assert open_folder(copy / "run")[1].data.data == str(copy / "elsewhere")
    assert resumed(copy)[0].finished


def test_resuming_without_a_checkpoint_reports_the_restart(copy: Path) -> None:
    (copy / "run" / "checkpoint.safetensors").unlink(missing_ok=True)
    assert any("no checkpoint.safetensors" in line for line in resumed(copy)[1])


def test_names_that_are_no_text_are_recorded_and_compared(tmp_path: Path) -> None:
    before, now = (record_data(["a"], [(name, "1") for name in names]) for names in (("\udcff", "\ud800"), ("\udcff",)))
    (tmp_path / "data.csv.gz").write_bytes(before.listing)
    assert compare_data(before.to_dict(), tmp_path / "data.csv.gz", before) is None
    assert compare_data(before.to_dict(), tmp_path / "data.csv.gz", now) == "files 1 removed"


def test_a_run_without_a_record_of_its_data_is_resumed(copy: Path) -> None:
    config = json.loads((copy / "run" / "config.json").read_text())
    del config["data"]
    (copy / "run" / "config.json").write_text(json.dumps(config))
    (copy / "data" / "train" / "red" / "0.png").unlink()
    assert resumed(copy)[0].finished


def test_a_class_more_in_a_run_without_a_record_is_refused_in_one_sentence(copy: Path) -> None:
    config = json.loads((copy / "run" / "config.json").read_text())
    del config["data"]
    (copy / "run" / "config.json").write_text(json.dumps(config))
    for split in ("train", "val"):
        shutil.copytree(copy / "data" / split / "blue", copy / "data" / split / "amber")
    with pytest.raises(UserError, match="the checkpoint does not fit the network"):
        resumed(copy)


def test_the_listing_names_every_image_with_class_and_size(copy: Path) -> None:
    lines = gzip.decompress((copy / "run" / "data.csv.gz").read_bytes()).decode().splitlines()
    size = (copy / "data" / "train" / "blue" / "0.png").stat().st_size
    assert len(lines) == 3 * (19 + 7)
    assert lines[0] == f"train/blue/0.png,blue {size}"


def test_a_damaged_listing_does_not_stop_the_run(copy: Path) -> None:
    (copy / "run" / "data.csv.gz").write_bytes(b"\x1f\x8b\x08 no gzip")
    (copy / "data" / "train" / "red" / "0.png").unlink()
    result, printed = resumed(copy)
    assert result.finished
    assert any("data changed" in line for line in printed)


def test_a_run_can_be_extended_and_its_schedule_follows_the_new_length(copy: Path) -> None:
    resumed(copy)
    result, printed = resumed(copy, epochs=4.0)
    assert (result.steps, result.total_steps) == (20, 20)
    assert any("resuming at step 15 of 20" in line for line in printed)
    rows = [json.loads(line) for line in (copy / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["learning_rate"] for row in rows if row["kind"] == "train"}
    assert rates[15] < rates[16] > rates[20]
    assert open_folder(copy / "run")[1].recipe.steps == 20
    assert [row["step"] for row in rows if row["kind"] == "evaluation"] == [5, 10, 15, 20]


def test_a_running_run_can_be_shortened_only_to_what_is_not_done(copy: Path) -> None:
    with pytest.raises(UserError, match="has done 4 steps already, so it cannot be shortened to 3"):
        resumed(copy, steps=3)
    assert resumed(copy, steps=6)[0].steps == 6


def test_a_finished_run_explains_how_to_continue_training(copy: Path) -> None:
    resumed(copy)
    _, printed = resumed(copy)
    assert printed[0].endswith("finished at step 15; resume it with more epochs to train longer")


def test_a_second_process_is_refused_while_one_trains(copy: Path) -> None:
    with (copy / "run" / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"is in use by process \d+ on .+ since .+ ago\); wait until"):
            resumed(copy)
    assert resumed(copy)[0].finished


def test_damaged_rows_are_set_aside_and_the_run_continues(copy: Path) -> None:
    metrics, environment = copy / "run" / "metrics.jsonl", copy / "run" / "environment.json"
    damage = b'not json\n[1]\n{"kind": "evaluation", "step": 2, "epoch": "x", "train_loss": null}\n\xff\xfe\n'
    metrics.write_bytes(damage + metrics.read_bytes())
    environment.write_text('{"a": ')
    result, printed = resumed(copy)
    assert result.finished
    assert any("4 of its" in line and "metrics.jsonl.damaged" in line for line in printed)
    assert any("environment.json.damaged" in line for line in printed)
    assert (copy / "run" / "metrics.jsonl.damaged").read_bytes().startswith(damage)
    assert json.loads(environment.read_text())[0]["device"] == "cpu"


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("recipe", "lr", "fast"),
        ("recipe", "steps", 2.5),
        ("recipe", "freeze", "layer1"),
        ("data", "data", 5),
        ("data", "workers", True),
        ("network", "model", None),
        ("network", "stages", [1, "a"]),
        ("output", "plots", "yes"),
        ("machine", "precision", "half"),
        ("machine", "unknown", 3),
    ],
)
def test_an_odd_value_in_the_config_is_one_sentence(copy: Path, group: str, name: str, value: object) -> None:
    path = copy / "run" / "config.json"
    config = json.loads(path.read_text())
    config["settings"][group][name] = value
    path.write_text(json.dumps(config))
    with pytest.raises(StorageError, match=r"config\.json cannot be read as settings of a run: .*" + name):
        resumed(copy)


@pytest.mark.parametrize(("name", "value"), [("ema_decay", None), ("optimizer", "adamw"), ("freeze", ["0.*"])])
def test_settings_that_do_not_fit_the_checkpoint_are_one_sentence(copy: Path, name: str, value: object) -> None:
    path = copy / "run" / "config.json"
    config = json.loads(path.read_text())
    config["settings"]["recipe"][name] = value
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json was changed and does not fit") as caught:
        resumed(copy)
    assert f"`{name}`" in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"settings": []}', '{"settings": {"data": 3}}', "", "[" * 9999])
def test_a_config_of_another_shape_is_one_sentence(copy: Path, text: str) -> None:
    (copy / "run" / "config.json").write_text(text)
    with pytest.raises(StorageError, match=r"config\.json"):
        resumed(copy)


def test_a_failure_in_the_first_step_leaves_no_folder(tmp_path: Path) -> None:
    def broken(_classes: int) -> Any:
        network = small_network(3)
        network.forward = lambda _: {}[0]
        return network

    settings = settings_for(write_photos(tmp_path / "data"), tmp_path / "run")
    with pytest.raises(KeyError):
        run_training(settings, build_model=broken, reporter=Silent())
    assert not (tmp_path / "run").exists()


def test_the_command_takes_workers_device_and_length_beside_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = write_photos(tmp_path / "data"), tmp_path / "run"
    short = ["--model", "cifar_resnet20", "--batch-size", "10", "--steps", "2", "--no-plots", "--workers", "1"]
    short += ["--device", "cpu"]
    assert main(["train", "--data", str(data), "--output", str(run), *short]) == 0
    assert main(["train", "--resume", str(run), "--steps", "3", "--workers", "0", "--device", "auto"]) == 0
    assert "resuming at step 2 of 3" in capsys.readouterr().out
    stored = open_folder(run)[1]
    assert (stored.recipe.steps, stored.data.workers, stored.machine.device) == (3, 0, "auto")
    assert main(["train", "--resume", str(run), "--lr", "0.1"]) == 2
    assert "found --lr" in capsys.readouterr().err
    assert main(["train", "--resume", str(run / "weights" / "last.safetensors")]) == 2
    assert "train with --weights" in capsys.readouterr().err


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_checkpoint_is_released_before_the_first_step(stopped: Path, tmp_path: Path, optimizer: str) -> None:
    settings = settings_for(stopped / "data", tmp_path / "run", optimizer=optimizer)
    run_training(settings, build_model=steady_network, reporter=StoppingAt(4))
    mapped: list[bool] = []

    class Looking(Silent):
        def advance(self, step: int, total: int, text: str) -> None:  # noqa: ARG002
            mapped.append(str(tmp_path / "run" / "checkpoint.safetensors") in Path("/proc/self/maps").read_text())

    resume(tmp_path / "run", build_model=steady_network, reporter=Looking())
    assert mapped and not any(mapped)


def test_the_tensors_of_a_checkpoint_are_freed_before_training(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[dict[str, Any]] = []
    kept: list[int] = []
    run = TrainingLoop.run

    def load(path: Path) -> dict[str, Any]:
        loaded.append(load_state(path))
        return loaded[0]

    def count(loop: TrainingLoop) -> None:
        kept.append(len(loaded[0]))
        run(loop)

    monkeypatch.setattr("gcnet.workflows.resume.load_state", load)
    monkeypatch.setattr(TrainingLoop, "run", count)
    resume(copy / "run", build_model=steady_network, reporter=Silent())
    assert kept == [0]
