"""Runs at URLs: published whole at each checkpoint, one writer, resumed to the same bits on another machine."""

import json
import os
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gcnet import remote_files, remote_uploads
from gcnet.cli import main
from gcnet.errors import UserError
from gcnet.lock_owner import this_machine
from gcnet.remote_files import RemoteError, file_system, find_remote, read_remote
from gcnet.storage import StorageError
from gcnet.training.progress import Silent
from gcnet.training.remote_run import RemoteRun, remote_run
from gcnet.training.run_folder import RunFolder
from gcnet.training.settings import OutputSettings, override
from gcnet.workflows.resume import resume
from gcnet.workflows.run import RunResult
from gcnet.workflows.train import run_training
from training.photos import settings_for, small_network, write_photos

ENTRY = {"object": "config.json", "size": 1, "sha256": ""}


class Lines(Silent):
    def __init__(self) -> None:
        self.printed: list[str] = []

    def log(self, text: str) -> None:
        self.printed.append(text)


class Crash(Exception):
    """Stands for a process that is gone."""


class ActingAt(Lines):
    """Calls a function after a step."""

    def __init__(self, step: int, act: Any) -> None:
        super().__init__()
        self.step, self.act = step, act

    def advance(self, step: int, total: int, text: str) -> None:  # noqa: ARG002
        if step == self.step and "validating" not in text:
            self.act()


def crash() -> None:
    raise Crash


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of one machine; removed, it is that of another."""
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return trained(photos, str(tmp_path_factory.mktemp("whole") / "run"))


def trained(photos: Path, output: str, reporter: Any = None, **changes: Any) -> RunResult:
    settings = override(settings_for(photos, Path("unused"), **changes), output=output)
    return run_training(settings, build_model=small_network, reporter=reporter or Silent())


def resumed(url: str, reporter: Any = None) -> RunResult:
    return resume(url, build_model=small_network, reporter=reporter or Silent())


def names(url: str) -> set[str]:
    return {file.url.removeprefix(f"{url}/") for file in find_remote(f"{url}/**")}


def test_run_is_published_whole_with_a_marker_of_its_files_and_without_its_lock(
    s3: str, photos: Path, whole: RunResult
) -> None:
    url = f"{s3}/runs/first"
    result = trained(photos, url)
    marker = json.loads(read_remote(f"{url}/published.json"))
    assert set(marker["files"]) == {str(path.relative_to(whole.folder)) for path in visible_files(whole.folder)}
    objects = {entry["object"] for entry in marker["files"].values()}
    assert names(url) == objects | {"published.json"}
    for name, entry in marker["files"].items():
        assert read_remote(f"{url}/{entry['object']}") == (result.folder / name).read_bytes()
    assert read_remote(f"{url}/weights/best.safetensors") == whole.best_weights.read_bytes()


def visible_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("in_thread", [False, True])
def test_run_that_was_killed_is_resumed_on_another_machine_to_the_same_bits(
    s3: str, photos: Path, whole: RunResult, cache: Path, in_thread: bool
) -> None:
    url = f"{s3}/runs/first"
    with pytest.raises(Crash):
        trained(photos, url, ActingAt(8, crash), save_async=in_thread)
    rows = read_remote(f"{url}/metrics.jsonl").decode().splitlines()
    steps = [json.loads(row)["step"] for row in rows]
    # While a thread publishes the checkpoint of step 6, training may write further rows, which resuming drops.
    assert 6 in steps and (in_thread or steps[-1] == 6)
    shutil.rmtree(cache)
    result = resumed(url)
    assert result.last_weights.read_bytes() == whole.last_weights.read_bytes()
    assert read_remote(f"{url}/weights/last.safetensors") == whole.last_weights.read_bytes()
    assert len([name for name in names(url) if name.startswith("checkpoint")]) == 1


def test_new_run_at_the_url_of_another_is_refused(s3: str, photos: Path) -> None:
    url = f"{s3}/runs/first"
    trained(photos, url, epochs=0.4)
    with pytest.raises(UserError, match=r"s3://bucket/runs/first already contains a run.*gcnet.resume\(s3://bucket/r"):
        trained(photos, url)


@pytest.mark.parametrize("url", ["s3://bucket/photos", "s3://bucket/photos/", "s3://bucket/photos/a", "s3://bucket"])
def test_new_run_at_a_url_with_other_files_is_refused(s3: str, url: str) -> None:
    file_system(s3).pipe_file(f"{s3}/photos/a/0.png", b"x")
    with pytest.raises(UserError, match=rf"`output` must not exist yet, found \S+ at {url.rstrip('/')}; take another"):
        RemoteRun(url).check_free()
    RemoteRun(f"{s3}/photos/b").check_free()


@pytest.mark.parametrize("left", [".lock", "config.json"])
def test_what_a_run_left_before_its_first_publication_is_no_obstacle(s3: str, left: str) -> None:
    file_system(s3).pipe_file(f"{s3}/run/{left}", b"{}")
    RemoteRun(f"{s3}/run").check_free()


@pytest.mark.parametrize("output", ["https://host/run", "hf://user/run", "file:///tmp/run", "s3://", "s3:///"])
def test_output_at_a_url_that_cannot_be_written_is_refused(output: str) -> None:
    with pytest.raises(UserError, match=rf"`output` takes a folder, or a URL that runs .*found {output}$"):
        OutputSettings(output=output)


def test_second_writer_is_refused_and_the_owner_named(s3: str, photos: Path, cache: Path) -> None:
    url = f"{s3}/runs/first"
    trained(photos, url, epochs=0.4)
    owner = {"host": "node7", "process": 123, "started": "2026-01-01T10:00:00+00:00"}
    lock(url, owner)
    with pytest.raises(
        UserError,
        match=r"in use by process 123 on node7 since 2026.*\(\d+ days ago\); last published \d+ \w+ ago; wait .*"
        r"; if it was killed, `gcnet.resume\(s3://bucket/runs/first, take_over=True\)` continues the run$",
    ):
        resumed(url)
    lock(f"{s3}/runs/second", owner)
    with pytest.raises(UserError, match="in use"):
        trained(photos, f"{s3}/runs/second")
    assert len(list((cache / "runs").glob("*second*/config.json"))) == 0, "nothing is left behind"
    assert json.loads(read_remote(f"{url}/.lock")) == owner


def lock(url: str, owner: dict[str, Any]) -> None:
    file_system(url).pipe_file(f"{url}/.lock", json.dumps(owner).encode())


def test_lock_of_a_process_of_this_machine_that_has_ended_is_taken_over(s3: str, photos: Path) -> None:
    url = f"{s3}/runs/first"
    trained(photos, url, epochs=0.4)
    ended = os.fork() or os._exit(0)
    os.waitpid(ended, 0)
    lock(url, {"host": os.uname().nodename, "machine": this_machine(), "process": ended})
    assert resumed(url).finished
    assert f"{url}/.lock" not in names(url)


def test_run_that_another_machine_published_while_this_one_started_is_not_overwritten(s3: str) -> None:
    """A run is fetched, or its URL found free, before its lock is taken."""
    late, early = RemoteRun(f"{s3}/run"), RemoteRun(f"{s3}/run")
    early.path.mkdir(parents=True)
    (early.path / "a.txt").write_bytes(b"early")
    late.check_free()
    with early.writing():
        early.publish()
    with pytest.raises(UserError, match="another process has published s3://bucket/run in the meantime: repeat"):
        late.writing().__enter__()
    late.fetch()
    with late.writing():
        late.publish()
    assert read_remote(f"{s3}/run/a.txt") == b"early"


def test_writer_whose_lock_was_taken_stops_before_it_overwrites_anything(s3: str, photos: Path) -> None:
    url = f"{s3}/runs/first"
    with pytest.raises(UserError, match="lock of s3://bucket/runs/first was deleted or taken"):
        trained(photos, url, ActingAt(7, lambda: lock(url, {"host": "node7", "process": 1})))
    assert json.loads(read_remote(f"{url}/metrics.jsonl").decode().splitlines()[-1])["step"] == 6
    assert json.loads(read_remote(f"{url}/.lock"))["host"] == "node7"


@pytest.mark.slow
def test_without_network_training_continues_and_the_end_names_the_local_folder_which_is_resumed(
    s3: str, photos: Path, whole: RunResult, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, reporter = f"{s3}/runs/first", ActingAt(7, lambda: unplug(monkeypatch))
    with pytest.raises(RemoteError, match=f"not published: .*nothing is lost: the run is in {cache}/runs/bucket"):
        trained(photos, url, reporter)
    assert any("not published" in line for line in reporter.printed)
    monkeypatch.undo()
    monkeypatch.setenv("GCNET_CACHE", str(cache))
    (local,) = [path for path in (cache / "runs").iterdir() if path.is_dir()]
    assert local.joinpath("weights/last.safetensors").read_bytes() == whole.last_weights.read_bytes()
    before = read_remote(f"{url}/weights/last.safetensors")
    assert resumed(url).finished, "the local folder has later steps"
    assert before != read_remote(f"{url}/weights/last.safetensors") == whole.last_weights.read_bytes()


def test_end_of_a_run_whose_last_checkpoint_was_not_published_makes_no_further_requests(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RemoteRun(f"{s3}/runs/first")
    unplug(monkeypatch)
    with pytest.raises(RemoteError) as failed:
        run.publish()
    monkeypatch.setattr("gcnet.remote_files.file_system", lambda _: pytest.fail("requested again"))
    with pytest.raises(RemoteError) as again:
        RunFolder(run.path, run).publish_end()
    assert again.value is failed.value


def test_data_that_cannot_be_reached_are_requested_once(s3: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fails(url: str) -> Any:
        asked.append(url)
        raise PermissionError("Forbidden") if len(asked) > 1 else TimeoutError("no answer")

    monkeypatch.setattr("gcnet.remote_files.file_system", fails)
    with pytest.raises(RemoteError, match="no answer"):
        trained(Path(f"{s3}/photos"), str(cache / "run"))
    assert len(asked) == 1


def unplug(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(url: str) -> Any:
        raise ConnectionError(f"no network to {url}")

    monkeypatch.setattr("gcnet.remote_files._FIRST_PAUSE", 0.0)
    monkeypatch.setattr("gcnet.remote_files.file_system", fails)
    monkeypatch.setattr("gcnet.remote_uploads.file_system", fails)


def test_run_that_was_never_published_is_resumed_from_its_local_folder(
    s3: str, photos: Path, whole: RunResult, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{s3}/runs/first"
    with pytest.raises(RemoteError, match=rf"`gcnet.resume\({url}\)` continues it on this machine"):
        trained(photos, url, ActingAt(1, lambda: unplug(monkeypatch)))
    monkeypatch.undo()
    monkeypatch.setenv("GCNET_CACHE", str(cache))
    with pytest.raises(UserError, match=rf"{url} has a run on this machine .* resume it with `gcnet.resume\({url}\)`"):
        trained(photos, url)
    assert resumed(url).finished
    assert read_remote(f"{url}/weights/last.safetensors") == whole.last_weights.read_bytes()


@pytest.mark.parametrize("on_another_machine", [False, True])
def test_restarted_job_continues_its_run_at_a_url_and_another_job_is_refused(
    s3: str, photos: Path, whole: RunResult, cache: Path, monkeypatch: pytest.MonkeyPatch, on_another_machine: bool
) -> None:
    url = f"{s3}/runs/first"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 5")
    start_process(monkeypatch)
    with pytest.raises(Crash):
        trained(photos, url, ActingAt(8, crash))
    if on_another_machine:
        shutil.rmtree(cache)
    start_process(monkeypatch)
    reporter = Lines()
    assert trained(photos, url, reporter).last_weights.read_bytes() == whole.last_weights.read_bytes()
    assert any("resuming at step 6" in line for line in reporter.printed)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 6")
    with pytest.raises(UserError, match="already contains a run"):
        trained(photos, url)


def start_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the trainings of this process, as a new one would."""
    monkeypatch.setattr("gcnet.training.restarts._trainings", Counter())


def test_publication_that_failed_halfway_keeps_the_marker_and_is_repeated_whole(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RemoteRun(f"{s3}/run")
    run.path.mkdir(parents=True)
    for name in ("a.txt", "b.txt", "checkpoint.safetensors"):
        (run.path / name).write_bytes(name.encode())
    upload = remote_uploads.upload
    with run.writing():
        run.publish()
        before = read_remote(f"{s3}/run/published.json")
        for name in ("a.txt", "b.txt", "checkpoint.safetensors"):
            (run.path / name).write_bytes(b"new " + name.encode())

        def fails_on_b(path: Path, url: str, content: Any) -> None:
            if url.endswith("b.txt"):
                raise RemoteError("no network")
            upload(path, url, content)

        monkeypatch.setattr("gcnet.training.remote_run.upload", fails_on_b)
        with pytest.raises(RemoteError, match="not published: no network; nothing is lost"):
            run.publish()
        assert read_remote(f"{s3}/run/published.json") == before
        monkeypatch.setattr("gcnet.training.remote_run.upload", upload)
        run.publish()
    files = json.loads(read_remote(f"{s3}/run/published.json"))["files"]
    for name, entry in files.items():
        assert read_remote(f"{s3}/run/{entry['object']}") == b"new " + name.encode()
    assert len(names(f"{s3}/run")) == 4, "one checkpoint, two texts and the marker"


@pytest.mark.slow
def test_damaged_checkpoint_and_marker_are_refused(s3: str, photos: Path, cache: Path) -> None:
    url = f"{s3}/runs/first"
    trained(photos, url, epochs=0.4)
    (checkpoint,) = [name for name in names(url) if name.startswith("checkpoint")]
    data = bytearray(read_remote(f"{url}/{checkpoint}"))
    data[-3] ^= 1
    file_system(url).pipe_file(f"{url}/{checkpoint}", bytes(data))
    shutil.rmtree(cache)
    with pytest.raises(StorageError, match=f"{checkpoint} is damaged"):
        resumed(url)


@pytest.mark.parametrize(
    ("marker", "reason"),
    [
        ({"files": {"../../x": ENTRY}}, "it names files outside of the run"),
        ({"files": {"/x": ENTRY}}, "it names files outside of the run"),
        ({"files": {".lock": ENTRY}}, "it names files outside of the run"),
        ({"files": {"": ENTRY}}, "it names files outside of the run"),
        ({"files": {"a": ENTRY | {"object": "../b"}}}, "it names files outside of the run"),
        ({"files": {"a": {"object": "a"}}}, "the entry of a lacks its object, size or SHA-256"),
        ({"files": {"a": ENTRY | {"size": "1"}}}, "the entry of a lacks its object, size or SHA-256"),
        ({"files": []}, "it has no files"),
        ([], "it has no files"),
    ],
)
def test_marker_that_names_other_files_than_those_of_a_run_is_refused(s3: str, marker: Any, reason: str) -> None:
    file_system(s3).pipe_file(f"{s3}/run/published.json", json.dumps(marker).encode())
    with pytest.raises(StorageError, match=rf"^s3://bucket/run/published.json is damaged: {reason}$"):
        resumed(f"{s3}/run")


@pytest.mark.parametrize("name", ["a[1]", "a*b", "a?b#c%20d+e f\u00e9"])
def test_characters_of_patterns_and_urls_stand_for_themselves_in_names_of_runs(s3: str, name: str) -> None:
    run = RemoteRun(f"{s3}/{name}")
    run.path.mkdir(parents=True)
    (run.path / "checkpoint.safetensors").write_bytes(b"one")
    with run.writing():
        run.publish()
        (run.path / "checkpoint.safetensors").write_bytes(b"another")
        run.publish()
    stored = [file.rpartition("/")[2] for file in file_system(s3).find(f"{s3}/{name}")]
    assert len(stored) == 2 and "published.json" in stored, "older checkpoints and the lock are removed"
    with pytest.raises(UserError, match="already contains a run"):
        RemoteRun(f"{s3}/{name}").check_free()


@pytest.mark.slow
def test_commands_train_resume_evaluate_and_predict_take_urls(
    s3: str, photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{s3}/runs/first"
    chosen = ["--model", "cifar_resnet20", "--data", str(photos), "--image-size", "11", "--batch-size", "10"]
    assert main(["train", *chosen, "--no-plots", "--steps", "2", "--output", url]) == 0
    shutil.rmtree(cache)
    assert main(["train", "--resume", url, "--steps", "4"]) == 0
    assert f"published at {url}" in capsys.readouterr().out
    for model in (url, f"{url}/weights/best.safetensors"):
        assert main(["evaluate", model, "--data", str(photos)]) == 0
    assert main(["predict", "--model", f"{url}/weights/last.safetensors", str(photos / "val" / "red" / "0.png")]) == 0
    assert main(["train", "--resume", f"{s3}/runs/none"]) == 2
    assert "there is no run at s3://bucket/runs/none" in capsys.readouterr().err
    assert main(["evaluate", f"{s3}/none.safetensors", "--data", str(photos)]) == 2
    assert "there is no file s3://bucket/none.safetensors" in capsys.readouterr().err


def test_missing_bucket_and_missing_library_are_one_sentence_and_leave_nothing(
    s3: str, photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="s3://missing/run.*bucket does not exist"):
        trained(photos, "s3://missing/run")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    remote_files._file_system.cache_clear()
    with pytest.raises(UserError, match=r'pip install "gcnet\[cloud\]"'):
        trained(photos, f"{s3}/run")
    monkeypatch.undo()
    assert not any(cache.rglob("config.json"))


def test_cache_that_cannot_be_written_is_one_sentence(s3: str, cache: Path) -> None:
    run = RemoteRun(f"{s3}/run")
    run.path.mkdir(parents=True)
    (run.path / "config.json").write_text("{}")
    with run.writing():
        run.publish()
    shutil.rmtree(cache)
    cache.write_text("a file")
    with pytest.raises(StorageError, match=f"^cannot create {cache}/runs/\\S+: Not a directory$"):
        resumed(f"{s3}/run")


def test_take_over_is_for_runs_at_urls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=f"`take_over` is for runs at URLs, found the folder {tmp_path}$"):
        resume(tmp_path, take_over=True)
    assert main(["train", "--take-over"]) == 2
    assert capsys.readouterr().err == "gcnet: --take-over requires --resume\n"


def test_lost_run_is_taken_over_by_the_command_that_the_error_names(
    s3: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{s3}/runs/first"
    chosen = ["--model", "cifar_resnet20", "--data", str(photos), "--image-size", "11", "--batch-size", "10"]
    assert main(["train", *chosen, "--no-plots", "--steps", "1", "--output", url]) == 0
    lock(url, {"host": "node7", "machine": "other", "process": 1, "renewed": "2026-01-01T10:00:00+00:00"})
    assert main(["train", "--resume", url, "--steps", "2"]) == 2
    (command,) = re.findall(r"if it was killed, gcnet (train .*) continues the run$", capsys.readouterr().err)
    assert main([*command.split(), "--steps", "2"]) == 0
    assert json.loads(read_remote(f"{url}/metrics.jsonl").decode().splitlines()[-1])["step"] == 2
    assert f"{url}/.lock" not in names(url)


def test_urls_are_recognized_after_pathlib_has_reduced_their_slashes(cache: Path) -> None:
    assert [getattr(remote_run(path), "url", None) for path in ("s3://b/r/", Path("s3://b/r"), "runs/s3", "C:/x")] == [
        *("s3://b/r", "s3://b/r", None, None)
    ]
    assert RemoteRun("s3://b/r").path != RemoteRun("s3://b-r").path
    assert RemoteRun("s3://b/r").path.parent == cache / "runs"
