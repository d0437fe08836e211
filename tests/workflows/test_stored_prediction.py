"""Predictions for images in shards and in a bucket: those of the same files on this machine, with other names."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from PIL import Image

import gcnet
from gcnet.cli import main
from gcnet.data.coco.open import open_coco
from gcnet.data.images.find_inputs import find_inputs
from gcnet.data.images.inputs import image_inputs
from gcnet.data.images.labeled import open_splits
from gcnet.data.images.write_shards import write_shards
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.model_file import save_model
from gcnet.remote_files import file_system
from s3_server import forget_file_systems
from training.photos import write_photos


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Class folders, and shards of them."""
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))
    folder = write_photos(tmp_path / "photos", train_images=3, val_images=2)
    write_shards(open_splits(str(folder)), tmp_path / "shards")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    save_model(create_model("gc_scenes_resnet"), folder / "classifier.safetensors", preprocessing={"image_size": 32})
    save_model(create_model("mask_rcnn_scenes_resnet", num_classes=4), folder / "detector.safetensors")
    return folder


def upload(folder: Path, url: str) -> str:
    """Upload the files of a folder, and return the URL."""
    for path in folder.rglob("*.*"):
        if path.is_file():
            file_system(url).pipe_file(f"{url}/{path.relative_to(folder)}", path.read_bytes())
    return url


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """Write a tar file by the standard library."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def pixels(inputs: Any) -> list[bytes]:
    return [item.open().tobytes() for item in inputs]


def expected_of(folder: Path) -> list[bytes]:
    """The pixels of all images below a folder, by Pillow."""
    images = []
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            images.append(image.convert("RGB").tobytes())
    return images


def test_images_of_a_folder_at_a_url_are_those_of_the_folder(photos: Path, s3: str) -> None:
    url = upload(photos, f"{s3}/photos")
    file_system(s3).pipe_file(f"{url}/val/notes.txt", b"x")
    file_system(s3).pipe_file(f"{url}/val/.cache/a.png", b"x")
    notes: list[str] = []
    found = find_inputs([Path(f"{url}/val"), f"{url}/train/red/0.png"], note=notes.append)
    assert [item.name for item in found] == [
        *(f"{url}/val/{path.relative_to(photos / 'val')}" for path in sorted((photos / "val").rglob("*.png"))),
        f"{url}/train/red/0.png",
    ]
    assert pixels(found)[:-1] == expected_of(photos / "val")
    assert notes == ["skipped 1 files of unsupported formats (1 .txt)"]
    assert pixels(image_inputs(f"{url}/val")) == pixels(found)[:-1]


@pytest.mark.parametrize("is_remote", [False, True])
def test_images_of_shards_are_those_of_the_folder(photos: Path, s3: str, is_remote: bool) -> None:
    shards = upload(photos.parent / "shards", f"{s3}/shards") if is_remote else str(photos.parent / "shards")
    found = find_inputs([f"{shards}/val-*.tar"])
    assert pixels(found) == expected_of(photos / "val")
    assert all(item.name.startswith(f"{shards}/val-") and ".tar/" in item.name for item in found)
    assert pixels(find_inputs([shards])) == expected_of(photos / "train") + expected_of(photos / "val")


@pytest.mark.parametrize("is_remote", [False, True])
def test_samples_need_no_label_to_be_predicted(photos: Path, tmp_path: Path, s3: str, is_remote: bool) -> None:
    image = (photos / "val" / "red" / "0.png").read_bytes()
    members = {"a.png": image, "b.png": image, "b.cls": b"red", "c.txt": b"no image", "d/e.png": image, "d/e.cls": b"3"}
    shard = str(write_tar(tmp_path / "unlabeled.tar", members))
    if is_remote:
        file_system(s3).put_file(shard, f"{s3}/unlabeled.tar")
        shard = f"{s3}/unlabeled.tar"
    notes: list[str] = []
    for _ in range(2):  # from the tar file, and from the index in the cache
        found = find_inputs([shard], note=notes.append)
        assert [item.name for item in found] == [f"{shard}/{name}" for name in ("a.png", "b.png", "d/e.png")]
        assert len(set(pixels(found))) == 1
    assert set(notes) == {f"{shard}: skipped 1 sample without an image, such as c.txt"}


def test_folder_of_images_with_a_tar_file_stays_a_folder_of_images(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(photos / "val" / "red" / "0.png", folder)
    write_tar(folder / "old.tar", {"a.png": b"x"})
    assert [item.path for item in find_inputs([folder])] == [folder / "0.png"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["classifier", "detector"])
def test_records_and_tables_are_those_of_the_folder(
    photos: Path, models: Path, tmp_path: Path, s3: str, model: str
) -> None:
    (photos / "val" / "red" / "0.png").write_bytes(b"no image")
    shutil.rmtree(tmp_path / "shards")
    write_shards(open_splits(str(photos)), tmp_path / "shards")
    url = upload(photos, f"{s3}/photos")
    arguments = {"model": models / f"{model}.safetensors", "device": "cpu"}
    arguments |= {"threshold": 0.0, "detections_per_image": 2} if model == "detector" else {"batch_size": 2}
    expected = gcnet.predict(photos / "val", **arguments).to_dict()
    shards = upload(tmp_path / "shards", f"{s3}/shards")
    places = [f"{shards}/val-*.tar", f"{tmp_path}/shards/val-*.tar", f"{url}/val"]
    for place in places[:1] if model == "detector" else places:
        found = gcnet.predict(place, **arguments)
        assert without_names(found.to_dict()) == without_names(expected)
        assert [skipped.name.rpartition("/")[2] for skipped in found.skipped] == ["0.png"]
        gcnet.predict(place, output=tmp_path / "records.jsonl", overwrite=True, **arguments)
        records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
        assert [record["path"] for record in records] == [item.name for item in find_inputs([place])]
        assert [("error" in record) for record in records] == [index == 4 for index in range(6)]


def without_names(predictions: dict[str, Any]) -> dict[str, Any]:
    images = [
        {key: value for key, value in image.items() if key not in ("path", "file_name")}
        for image in predictions["images"]
    ]
    return predictions | {"images": images, "skipped": [entry["reason"] for entry in predictions["skipped"]]}


@pytest.mark.slow
def test_pictures_and_parquet_are_written(photos: Path, models: Path, tmp_path: Path, s3: str) -> None:
    from pyarrow import parquet

    url = upload(photos, f"{s3}/photos")
    options = ["--model", str(models / "classifier.safetensors"), "--device", "cpu"]
    assert main(["predict", f"{url}/val", *options, "--output", str(tmp_path / "r.parquet")]) == 0
    table = parquet.read_table(tmp_path / "r.parquet").to_pylist()
    assert [row["path"] for row in table] == [item.name for item in find_inputs([f"{url}/val"])]
    assert main(["predict", f"{url}/val/red", *options, "--output", str(tmp_path / "sheet.png")]) == 0
    options = ["--model", str(models / "detector.safetensors"), "--device", "cpu", "--threshold", "0"]
    assert main(["predict", f"{url}/val/red", *options, "--output", str(tmp_path / "pictures")]) == 0
    assert len(list((tmp_path / "pictures").iterdir())) == 2


MISTAKES = {
    "s3://none/photos": "nothing at s3://none/photos: The specified bucket does not exist",
    "s3://bucket/none": "there is no file s3://bucket/none",
    "s3://bucket/a/phooto.png": r'no file s3://bucket/a/phooto.png; did you mean "s3://bucket/a/photo.png"',
    "s3://bucket/text": r"no image files in s3://bucket/text, only 1 files of unsupported formats \(1 .txt\)",
    "s3://bucket/shards/val-{0,1}.tar": "there is no shard s3://bucket/shards/val-1.tar",
    "s3://bucket/shards/test-*.tar": r"no shard matches s3://bucket/shards/test-\*.tar",
    "s3://me:abc@bucket/x": "must not contain a password or secret key",
    "shards.tar.gz": "shards must be .tar files without compression",
}


def test_mistakes_are_one_sentence(s3: str) -> None:
    for name in ("a/photo.png", "text/notes.txt", "shards/val-0.tar"):
        file_system(s3).pipe_file(f"{s3}/{name}", b"x")
    for path, message in MISTAKES.items():
        with pytest.raises(UserError, match=message) as error:
            find_inputs([path])
        assert "\n" not in str(error.value) and "abc" not in str(error.value)


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_library(protocol: str, **_: object) -> None:
        raise ImportError(f"Install s3fs to access {protocol}")

    forget_file_systems()
    monkeypatch.setattr(fsspec, "filesystem", without_library)
    for work in (
        lambda: find_inputs(["s3://bucket/photos"]),
        lambda: find_inputs(["s3://bucket/val-*.tar"]),
        lambda: open_coco(DataSettings(data="s3://bucket/a.json", val_fraction=0.5)),
        lambda: open_splits("s3://bucket/list.csv"),
    ):
        with pytest.raises(UserError, match=r'require fsspec and s3fs: pip install "gcnet\[cloud\]"'):
            work()


def test_removed_image_is_skipped_and_denied_access_is_an_error(
    photos: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload(photos, f"{s3}/photos")
    first, second, *_ = find_inputs([f"{url}/val"])
    file_system(s3).rm_file(first.name)
    with pytest.raises(UserError, match=r"s3://bucket/photos/val/blue/0.png: no such file"):
        first.open()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(file_system(s3), "cat_file", refuse)
    with pytest.raises(UserError, match=r"access to s3://bucket/photos/val/blue/1.png is denied: Forbidden"):
        second.open()
