import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import timm.data
import webdataset
from PIL import Image

from gcnet.data.images.labeled import open_labeled, open_splits
from gcnet.data.images.write_shards import write_shards
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError
from gcnet.storage import StorageError
from shard_writing import image_bytes, write_tar

UNCLOSED = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)  # of the readers of webdataset

LABELED = {".png": image_bytes(), ".cls": b"0"}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))
    names = ("a.jpg", "b.v2.jpg", "b_v2.jpg", "c.PNG", "deep/d.webp", "__e__/f.bmp", "é.jpg")
    for split, count in (("train", 7), ("val", 2)):
        for label, name in enumerate(("cat", "dog", "__emu__")):
            for number in range(count):
                path = tmp_path / "photos" / split / name / names[number]
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.effect_noise((31 + number, 29), 50 + label).convert("RGB").save(path)
    return tmp_path / "photos"


def contents(images: object) -> list[tuple[int, bytes]]:
    """Label and bytes of every image."""
    files = [images.encoded(index) for index in range(len(images))]
    data = [file.read_bytes() if isinstance(file, Path) else file.data for file in files]
    return [(images.label(index), data[index]) for index in range(len(images))]


@pytest.mark.parametrize("size", [1, 256])
def test_shards_have_the_bytes_labels_and_order_of_the_folder(photos: Path, tmp_path: Path, size: int) -> None:
    for path in sorted(photos.glob("train/*/a.jpg")):
        Image.effect_noise((900, 700), 90).save(path, quality=100)  # of which few fit into a shard
    splits = open_splits(str(photos))
    written = write_shards(splits, tmp_path / "shards", shard_size=size)
    assert written.images == {"train": 21, "val": 6} and written.skipped == ()
    assert (len(written.shards["train"]) > 1) == (size == 1)
    found = open_labeled(DataSettings(data=str(tmp_path / "shards")), 0)
    expected = open_labeled(DataSettings(data=str(photos)), 0)
    for shards, files in zip(found, expected, strict=True):
        assert shards.classes == files.classes
        assert contents(shards) == contents(files)
        assert len({shards.name(index) for index in range(len(shards))}) == len(files)
    assert max(path.stat().st_size for path in (tmp_path / "shards").glob("*.tar")) <= size << 20


@UNCLOSED
def test_webdataset_reads_the_shards(photos: Path, tmp_path: Path) -> None:
    splits = open_splits(str(photos))
    write_shards(splits, tmp_path / "shards")
    samples = list(webdataset.WebDataset(str(tmp_path / "shards" / "train-000000.tar"), shardshuffle=False))
    kinds = ("jpg", "png", "webp", "bmp")
    found = [(int(sample["cls"]), next(sample[kind] for kind in kinds if kind in sample)) for sample in samples]
    assert found == contents(splits["train"])


@UNCLOSED
def test_timm_reads_the_shards(photos: Path, tmp_path: Path) -> None:
    write_shards(open_splits(str(photos)), tmp_path / "shards")
    names = ["jpg", "png", "webp", "bmp"]
    images = timm.data.create_dataset(
        "wds/", root=str(tmp_path / "shards"), split="train", is_training=False, batch_size=1, input_key=";".join(names)
    )
    assert len(images) == 21
    assert [target for _, target in images] == [label for label, _ in contents(open_splits(str(photos))["train"])]


def test_tar_extracts_the_same_files(photos: Path, tmp_path: Path) -> None:
    write_shards(open_splits(str(photos)), tmp_path / "shards")
    (tmp_path / "extracted").mkdir()
    archive = str(tmp_path / "shards" / "val-000000.tar")
    subprocess.run(["tar", "-xf", archive, "-C", str(tmp_path / "extracted")], check=True)
    extracted = [path for path in (tmp_path / "extracted").rglob("*") if path.suffix not in (".cls", "")]
    originals = [path for path in (photos / "val").rglob("*") if path.is_file()]
    assert sorted(map(Path.read_bytes, extracted)) == sorted(map(Path.read_bytes, originals))


def test_shards_are_written_of_shards(photos: Path, tmp_path: Path) -> None:
    write_shards(open_splits(str(photos)), tmp_path / "first")
    write_shards(open_splits(str(tmp_path / "first")), tmp_path / "second")
    for path in (tmp_path / "first").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
    info = json.loads((tmp_path / "second" / "_info.json").read_text())
    assert info["classes"] == ["__emu__", "cat", "dog"]
    assert info["splits"]["train"]["shard_lengths"] == [21]


def test_names_that_lead_out_of_a_folder_are_not_copied(tmp_path: Path) -> None:
    members = {f"{name}{suffix}": data for name in ("../../a", "/b", "c/./d") for suffix, data in LABELED.items()}
    write_tar(tmp_path / "train-0.tar", members)
    write_shards(open_splits(f"{tmp_path}/train-0.tar"), tmp_path / "shards")
    with tarfile.open(tmp_path / "shards" / "train-000000.tar") as archive:
        assert archive.getnames() == ["a.png", "a.cls", "b.png", "b.cls", "c/d.png", "c/d.cls"]


def test_missing_files_are_skipped_and_listed(photos: Path, tmp_path: Path) -> None:
    (photos / "train" / "cat" / "a.jpg").unlink()
    (photos / "train" / "cat" / "a.jpg").symlink_to("nowhere.jpg")
    rows = "\n".join(f"{path.relative_to(photos)},{path.parent.name}" for path in sorted(photos.glob("train/*/*.jpg")))
    (photos / "list.csv").write_text(f"path,label\n{rows}\n")
    written = write_shards(open_splits(str(photos / "list.csv")), tmp_path / "shards")
    assert written.skipped == ("train/cat/a.jpg",)
    assert set(written.images) == {"all"}


def test_a_pipe_among_the_images_is_skipped(photos: Path, tmp_path: Path) -> None:
    os.mkfifo(photos / "train" / "cat" / "pipe.jpg")
    written = write_shards(open_splits(str(photos)), tmp_path / "shards")
    assert written.skipped == ("cat/pipe.jpg",) and written.images["train"] == 21


def test_files_of_a_csv_need_no_suffix(photos: Path, tmp_path: Path) -> None:
    for name in ("1", "2.large", "2.small"):
        (photos / name).write_bytes((photos / "train" / "dog" / "a.jpg").read_bytes())
    (photos / "list.csv").write_text("path,label\n1,cat\n2.large,dog\n2.small,dog\n")
    splits = open_splits(str(photos / "list.csv"))
    assert write_shards(splits, tmp_path / "shards").images == {"all": 3}
    images = open_splits(str(tmp_path / "shards"))["all"]
    assert contents(images) == contents(splits["all"])
    assert [images.name(index) for index in range(3)] == ["1.jpg", "2.jpg", "2_2.jpg"]


def test_class_indices_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))
    members = {f"{label}{suffix}": data for label in range(12) for suffix, data in sample_of(label).items()}
    write_tar(tmp_path / "first" / "train-0.tar", members)
    write_tar(tmp_path / "first" / "val-0.tar", {f"0{suffix}": data for suffix, data in sample_of(3).items()})
    write_shards(open_splits(str(tmp_path / "first")), tmp_path / "second")
    splits = open_splits(str(tmp_path / "second"))
    assert splits["train"].all_labels().tolist() == list(range(12)) and splits["val"].label(0) == 3
    assert splits["train"].classes == tuple(map(str, range(12)))


def sample_of(label: int) -> dict[str, bytes]:
    """Image and class index of a sample by suffix."""
    return {".png": image_bytes(label), ".cls": str(label).encode()}


def test_an_empty_folder_keeps_its_place_as_a_mounted_disk_must(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "shards"
    output.mkdir()
    number = output.stat().st_ino
    with pytest.MonkeyPatch.context() as context:
        context.chdir(output)
        write_shards(open_splits(str(photos)), Path("."))
    assert output.stat().st_ino == number
    assert len(open_splits(str(output))["train"]) == 21
    names = ["_info.json", "train-000000.tar", "train.index.safetensors", "val-000000.tar", "val.index.safetensors"]
    assert sorted(path.name for path in output.iterdir()) == names


def test_a_folder_with_files_is_not_overwritten(photos: Path) -> None:
    with pytest.raises(UserError, match="the output must be a new or empty folder"):
        write_shards(open_splits(str(photos)), photos)


def test_a_folder_that_appears_meanwhile_is_not_overwritten(photos: Path, tmp_path: Path) -> None:
    def interfere(_: int) -> None:
        (tmp_path / "shards").mkdir(exist_ok=True)
        (tmp_path / "shards" / "train-000000.tar").write_text("of another process")

    with pytest.raises(StorageError, match="cannot write .*shards: Directory not empty"):
        write_shards(open_splits(str(photos)), tmp_path / "shards", progress=interfere)
    assert (tmp_path / "shards" / "train-000000.tar").read_text() == "of another process"


def test_a_failing_disk_leaves_nothing(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = open_splits(str(photos))
    before = sorted(tmp_path.iterdir())

    def failing(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gcnet.data.images.write_shards._add", failing)
    with pytest.raises(StorageError, match="cannot write .*shards|the disk is full"):
        write_shards(splits, tmp_path / "shards")
    assert sorted(tmp_path.iterdir()) == before
