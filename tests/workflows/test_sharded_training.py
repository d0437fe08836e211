"""Training on shards, on this machine and in a bucket: the bits of training on the folder, also after a resume."""

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gcnet.cli import main
from gcnet.data.images.labeled import open_splits
from gcnet.data.images.write_shards import write_shards
from gcnet.errors import UserError
from gcnet.remote_files import file_system
from gcnet.training.progress import Silent
from gcnet.workflows.resume import resume
from gcnet.workflows.train import run_training
from training.photos import StoppingAt, settings_for, steady_network, write_photos

STEPS = 6


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))
    folder = write_photos(tmp_path / "photos")
    write_shards(open_splits(str(folder)), tmp_path / "shards")
    return folder


def upload(folder: Path, url: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            file_system(url).pipe_file(f"{url}/{path.relative_to(folder)}", path.read_bytes())


def trained(data: str, output: Path, *, workers: int, stop: int | None = None) -> dict[str, torch.Tensor]:
    """Weights after `STEPS` steps, stopped and resumed in between."""
    settings = settings_for(Path("replaced"), output, data=data, workers=workers, steps=STEPS, epochs=None)
    reporter = Silent() if stop is None else StoppingAt(stop)
    result = run_training(settings, build_model=steady_network, reporter=reporter)
    if stop is not None:
        assert (result.stopped, result.steps) == (signal.SIGTERM, stop)
        assert resume(output, build_model=steady_network, reporter=Silent()).finished
    return load_file(output / "weights" / "last.safetensors")


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_shards_give_the_bits_of_the_folder_also_after_a_resume(photos: Path, tmp_path: Path, workers: int) -> None:
    expected = trained(str(photos), tmp_path / "folder", workers=0)
    data = f"{tmp_path}/shards/{{train,val}}-*.tar"
    assert_same(trained(data, tmp_path / "whole", workers=workers), expected)
    assert_same(trained(data, tmp_path / "resumed", workers=workers, stop=3), expected)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_shards_in_a_bucket_give_the_bits_of_the_folder_also_after_a_resume(
    photos: Path, tmp_path: Path, s3: str, workers: int
) -> None:
    expected = trained(str(photos), tmp_path / "folder", workers=0)
    upload(tmp_path / "shards", f"{s3}/shards")
    data = f"{s3}/shards/{{train,val}}-*.tar"
    assert_same(trained(data, tmp_path / "resumed", workers=workers, stop=3), expected)


@pytest.mark.slow
def test_a_run_on_shards_is_resumed_from_another_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    settings = settings_for(Path("replaced"), tmp_path / "run", data="shards/{train,val}-*.tar", steps=4, epochs=None)
    run_training(settings, build_model=steady_network, reporter=StoppingAt(2))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resume(tmp_path / "run", build_model=steady_network, reporter=Silent()).finished


@pytest.mark.slow
def test_commands_take_shards_of_a_bucket(
    photos: Path, tmp_path: Path, s3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(photos.parent / "shards", f"{s3}/shards")
    outputs = []
    for data in (f"{s3}/shards", f"{s3}/shards/{{train,val}}-*.tar", f"{tmp_path}/shards"):
        assert main(["check-data", data]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]
    assert "57 images, 3 classes" in outputs[0]
    assert main(["shard", f"{s3}/shards", "--output", str(tmp_path / "copy")]) == 0
    for path in (tmp_path / "shards").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "copy" / path.name).read_bytes()


def test_an_index_in_the_bucket_spares_the_shards(photos: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(photos.parent / "shards", f"{s3}/shards")
    monkeypatch.setattr("gcnet.data.images.shard_index.build_index", None)
    assert {name: len(images) for name, images in open_splits(f"{s3}/shards").items()} == {"train": 57, "val": 21}


def test_shards_in_a_bucket_need_no_cache(
    photos: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(photos.parent / "shards", f"{s3}/shards")
    (tmp_path / "file").touch()
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "file" / "cache"))
    assert {name: len(images) for name, images in open_splits(f"{s3}/shards").items()} == {"train": 57, "val": 21}


def test_shards_without_an_index_are_indexed_by_ranged_reads(photos: Path, s3: str) -> None:
    upload(photos.parent / "shards", f"{s3}/shards")
    for name in file_system(s3).glob(f"{s3}/shards/*.safetensors"):
        file_system(s3).rm_file(name)
    expected, found = open_splits(str(photos.parent / "shards")), open_splits(f"{s3}/shards")
    for split, images in expected.items():
        for index in range(len(images)):
            assert found[split].name(index) == images.name(index)
            assert found[split].encoded(index).data == images.encoded(index).data


@pytest.mark.slow
def test_a_lost_shard_in_a_worker_is_one_sentence(photos: Path, tmp_path: Path, s3: str) -> None:
    upload(photos.parent / "shards", f"{s3}/shards")
    settings = settings_for(Path("replaced"), tmp_path / "run", data=f"{s3}/shards", workers=2, steps=40, epochs=None)

    class LosingAt(Silent):
        def advance(self, step: int, total: int, text: str) -> None:  # noqa: ARG002
            if step == 1:
                file_system(s3).rm(f"{s3}/shards/train-000000.tar")

    with pytest.raises(UserError) as caught:
        run_training(settings, build_model=steady_network, reporter=LosingAt())
    assert str(caught.value) == f"nothing at {s3}/shards/train-000000.tar: The specified key does not exist."
