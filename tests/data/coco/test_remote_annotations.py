"""COCO annotations and images in a bucket, judged by the same files on this machine."""

import errno
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from gcnet.checkpoints import url_copies
from gcnet.data.coco import annotation_file
from gcnet.data.coco.open import is_coco, open_coco, open_validation
from gcnet.data.decode import ImageError
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError
from gcnet.remote_files import RemoteError, file_system
from gcnet.storage import StorageError
from s3_server import requests

from .annotated import content, write_images, write_json, write_layout


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def coco(tmp_path: Path, s3: str) -> tuple[Path, str]:
    """A data set in COCO's layout on this machine, and the same in a bucket."""
    splits = {f"annotations/instances_{split}2017.json": (f"{split}2017", "") for split in ("train", "val")}
    write_layout(tmp_path / "coco", splits)
    return tmp_path / "coco", upload(tmp_path / "coco", f"{s3}/coco")


def upload(folder: Path, url: str) -> str:
    """Upload the files of a folder, and return the URL."""
    for path in folder.rglob("*"):
        if path.is_file():
            file_system(url).pipe_file(f"{url}/{path.relative_to(folder)}", path.read_bytes())
    return url


def files_of(data: object, **more: str) -> DataSettings:
    """The annotation files of the data set at a path or URL."""
    train, val = (f"{data}/annotations/instances_{split}2017.json" for split in ("train", "val"))
    return DataSettings(data=train, val=val, **more)


@pytest.mark.parametrize(
    "settings",
    [
        lambda url: DataSettings(data=url),
        lambda url: files_of(url),
        lambda url: files_of(url, images=f"{url}/"),
    ],
    ids=["folder", "files", "files and images"],
)
def test_index_and_images_are_those_of_the_folder(
    coco: tuple[Path, str], settings: Callable[[str], DataSettings]
) -> None:
    folder, url = coco
    for split, found in zip(("train", "val"), open_coco(settings(url)), strict=True):
        stored = json.loads((folder / "annotations" / f"instances_{split}2017.json").read_text())
        assert {key: found.images.content[key] for key in stored} == stored
        assert found.place == f"{url}/annotations/instances_{split}2017.json" and found.reports() == []
        found.images.prefetch(range(len(found.images)))
        for index, entry in enumerate(stored["images"]):
            with Image.open(folder / f"{split}2017" / entry["file_name"]) as image:
                assert found.images.read(index).tobytes() == image.convert("RGB").tobytes()
    local, remote = (open_coco(settings(str(data))) for data in coco)
    assert [list(split.contents()) for split in remote] == [list(split.contents()) for split in local]


def test_images_in_another_bucket_and_annotations_on_this_machine(coco: tuple[Path, str]) -> None:
    folder, url = coco
    train, val = open_coco(files_of(folder, images=url))
    assert list(train.images.files()) == [f"{url}/train2017/0_{number}.png" for number in range(3)]
    assert val.images.read(0).size == (23, 17)


def test_second_start_downloads_nothing_and_lists_each_folder_once(
    coco: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_coco(files_of(coco[1]))
    monkeypatch.setattr(url_copies, "download", None)
    listed: list[str] = []
    system = file_system(coco[1])
    listing = system.ls
    monkeypatch.setattr(system, "ls", lambda url, **options: listed.append(url) or listing(url, **options))
    open_coco(files_of(coco[1]))
    assert f"{coco[1]}/train2017" in listed and len(listed) == len(set(listed))


@pytest.mark.parametrize("in_child", [False, True])
def test_first_start_lists_each_folder_once(
    coco: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, in_child: bool
) -> None:
    """Also where the annotations are read in a process of their own."""
    monkeypatch.setattr(annotation_file, "CACHED", 0)
    monkeypatch.setattr(annotation_file, "IN_CHILD", 0 if in_child else 2**30)
    open_coco(files_of(coco[1]))
    listed = re.findall(r"GET /bucket\?list-type=2&prefix=(\S*?)&", requests())
    for folder in ("coco/train2017/", "coco/val2017/"):
        assert [unquote(prefix) for prefix in listed].count(folder) == 1


def test_changed_annotations_are_downloaded_again_and_old_copies_removed(
    coco: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_validation(files_of(coco[1])).images.classes == ("cat", "dog")
    file = coco[0] / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text().replace('"cat"', '"cow"'))  # of the same size
    monkeypatch.setattr(url_copies, "_KEPT", -1)
    upload(coco[0] / "annotations", f"{coco[1]}/annotations")
    assert open_validation(files_of(coco[1])).images.classes == ("cow", "dog")
    assert [path.read_bytes() for path in cache.rglob("instances_val2017.json")] == [file.read_bytes()]


def test_partial_download_never_counts(coco: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(url_copies, "download", lambda _url, path: path.write_bytes(b"{"))
        with pytest.raises(RemoteError, match="instances_val2017.json was not downloaded whole: 1 of"):
            open_validation(files_of(coco[1]))
    assert not list(cache.rglob("*instances_val2017.json*"))
    assert len(open_validation(files_of(coco[1])).images) == 2


def test_file_that_changes_during_the_download_is_downloaded_again(
    coco: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{coco[1]}/annotations/instances_val2017.json"
    text = file_system(url).cat_file(url)
    changes = [text.replace(b'"dog"', b'"pig"'), text.replace(b'"dog"', b'"hen"')]
    download = url_copies.download

    def changing(source: str, path: Path) -> None:
        download(source, path)
        if changes:
            file_system(source).pipe_file(source, changes.pop(0))

    monkeypatch.setattr(url_copies, "download", changing)
    assert open_validation(files_of(coco[1])).images.classes == ("cat", "hen")


def test_file_that_shrinks_during_the_download_is_downloaded_again(
    coco: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{coco[1]}/annotations/instances_val2017.json"
    changes = [json.dumps(content(["1_0.png"])).encode()]
    download = url_copies.download

    def changing(source: str, path: Path) -> None:
        if changes:
            file_system(source).pipe_file(source, changes.pop(0))
        download(source, path)

    monkeypatch.setattr(url_copies, "download", changing)
    assert len(open_validation(files_of(coco[1])).images) == 1
    file_system(url).pipe_file(url, b"{}")
    monkeypatch.setattr(
        url_copies, "download", lambda source, _: file_system(source).pipe_file(source, str(time.time_ns()).encode())
    )
    with pytest.raises(RemoteError, match=f"{url} changed 3 times while it was downloaded"):
        open_validation(files_of(coco[1]))


@pytest.mark.parametrize(("number", "sentence"), [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only file")])
def test_cache_that_cannot_be_written_is_named_and_nothing_is_left(
    coco: tuple[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch, number: int, sentence: str
) -> None:
    attempts = []

    def fail(_url: str, path: str) -> None:
        attempts.append(Path(path).write_bytes(b"part"))
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(file_system(coco[1]), "get_file", fail)
    with pytest.raises(StorageError, match=f"^cannot write into {cache}/remote/\\S+: {sentence}"):
        open_validation(files_of(coco[1]))
    assert len(attempts) == 1
    assert not [path for path in (cache / "remote").rglob("*") if path.is_file() and path.stat().st_size == 4]


def test_names_of_any_characters_and_depth_are_found_or_missing(tmp_path: Path, s3: str) -> None:
    there = [
        "a b.png",
        "caf\u00e9.png",
        "p%20q.png",
        "x+y.png",
        "h#1.png",
        "q?v=1.png",
        "br[0].png",
        "st*r.png",
        "a&=b.png",
    ]
    write_images(tmp_path / "data", there)
    odd = [
        "/etc/passwd",
        "file:///etc/passwd",
        "s3://other/x.png",
        "https://host/x.png?d=../../x",
        "a/" * 900 + "x",
        "a/" * 9000,
    ]
    write_json(tmp_path / "data" / "train.json", content(there + odd))
    upload(tmp_path / "data", f"{s3}/data [1]")
    local, remote = (
        open_coco(DataSettings(data=f"{data}/train.json", val_fraction=0.1))[0].images._read.paths
        for data in (tmp_path / "data", f"{s3}/data [1]")
    )
    assert remote.files == local.files == {name: name for name in there}
    assert remote.missing == local.missing and set(remote.missing) == set(odd)


def test_paths_stay_in_the_image_folder_and_are_repaired_as_in_a_folder(tmp_path: Path, s3: str) -> None:
    write_images(tmp_path / "data" / "inside", ["a.png", "deep/b.png", "C.PNG", "d e.png"])
    write_images(tmp_path / "data", ["secret.png"])
    names = ["a.png", "..\\inside\\deep\\b.png", "c.png", "d%20e.png", "../secret.png", "gone.png", "../other/x.png"]
    write_json(tmp_path / "data" / "train.json", content(names))
    upload(tmp_path / "data", f"{s3}/data")
    local, remote = (
        open_coco(DataSettings(data=f"{data}/train.json", images=f"{data}/inside", val_fraction=0.1))[0]
        for data in (tmp_path / "data", f"{s3}/data")
    )
    assert remote.notes[0] == local.notes[0]
    reader = remote.images._read
    expected = {"a.png": "a.png", names[1]: "deep/b.png", "c.png": "C.PNG", "d%20e.png": "d e.png"}
    assert reader.paths.files == local.images._read.paths.files == expected
    assert reader.paths.missing == local.images._read.paths.missing
    with pytest.raises(ImageError, match="path outside of the image folder"):
        reader({"file_name": "../secret.png", "width": 23, "height": 17, "id": 5})


def test_full_urls_as_file_names_are_taken(tmp_path: Path, s3: str) -> None:
    write_images(tmp_path / "data" / "images", ["a.png", "b.png"])
    write_json(tmp_path / "data" / "train.json", content([f"{s3}/data/images/a.png", f"{s3}/data/images/b.png"]))
    upload(tmp_path / "data", f"{s3}/data")
    settings = DataSettings(data=f"{s3}/data/train.json", images=f"{s3}/data/images", val_fraction=0.5)
    for split in open_coco(settings):
        assert split.images.read(0).size == (23, 17) and "repaired" not in "".join(split.notes)


def test_images_without_annotated_size_are_read(tmp_path: Path, s3: str) -> None:
    data = content(write_images(tmp_path / "data", ["a.png", "b.png"]))
    del data["images"][0]["width"]
    write_json(tmp_path / "data" / "train.json", data)
    upload(tmp_path / "data", f"{s3}/data")
    (split, _) = open_coco(DataSettings(data=f"{s3}/data/train.json", val_fraction=0.5))
    assert [(split.images.index.sizes[row]).tolist() for row in range(2)] == [[17, 23], [17, 23]]
    assert "missing image size" in (split.issue_report() or "")


def test_removed_and_huge_images_are_skipped_with_the_reason(
    coco: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_validation(files_of(coco[1])).images
    file_system(coco[1]).rm_file(f"{coco[1]}/val2017/1_0.png")
    with pytest.raises(ImageError, match="s3://bucket/coco/val2017/1_0.png: no such file"):
        images.read(0)
    monkeypatch.setattr(images._read._remote, "_largest", 10)
    with pytest.raises(ImageError, match="bytes, over the limit of 10"):
        images.read(1)


def test_images_of_a_batch_are_requested_at_the_same_time(
    coco: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_coco(files_of(coco[1]))[0].images
    images.prefetch([2, 0])
    monkeypatch.setattr("gcnet.data.images.remote_reader.read_remote", None)
    assert [images.read(index).getpixel((0, 0)) for index in (0, 2)] == [(0, 90, 40), (40, 90, 40)]


MISTAKES = {
    "s3://none/a.json": "nothing at s3://none/a.json: The specified bucket does not exist",
    "s3://none/coco": "nothing at s3://none/coco: The specified bucket does not exist",
    "s3://bucket/none": 'nothing at "s3://bucket/none"',
    "s3://bucket/coco/annotations/instances_trian2017.json": r'did you mean "s3://bucket/\S+_train2017.json"\?',
    "s3://bucket/coco/train2017": "s3://bucket/coco/train2017 has no COCO annotation file for train",
    "s3://Bad_Bucket!/a.json": r'cannot access s3://Bad_Bucket!/a.json: Parameter .*: Invalid bucket name "Bad_Buc',
    "s3://bucket/coco/folder.json": "s3://bucket/coco/folder.json is a folder, expected a file",
    "s3://bucket/coco/damaged.json": r"s3://bucket/coco/damaged.json (is|ends|must)",
}


def test_mistakes_are_one_sentence_that_names_the_url(coco: tuple[Path, str]) -> None:
    file_system(coco[1]).pipe_file(f"{coco[1]}/damaged.json", b'{"images": [')
    file_system(coco[1]).pipe_file(f"{coco[1]}/folder.json/instances_x.json/a.png", b"")
    for data, message in MISTAKES.items():
        with pytest.raises(UserError, match=message) as error:
            open_coco(DataSettings(data=data, val_fraction=0.5))
        assert "\n" not in str(error.value) and "cache" not in str(error.value)


def test_refused_access_is_named(coco: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(file_system(coco[1]), "info", refuse)
    with pytest.raises(UserError, match="access to s3://bucket/coco/annotations/instances_val2017.json is denied"):
        open_validation(files_of(coco[1]))


def test_secrets_in_urls_are_refused_unseen() -> None:
    for options in ({"data": "s3://me:abc@bucket/a.json"}, {"data": "a.json", "images": "s3://me:abc@bucket/a"}):
        with pytest.raises(UserError, match="must not contain a password") as error:
            DataSettings(**options)
        assert "abc" not in str(error.value)


def test_folders_of_annotations_are_recognized(coco: tuple[Path, str], s3: str) -> None:
    file_system(s3).pipe_file(f"{s3}/photos/train/red/a.png", b"x")
    assert is_coco(coco[1]) and is_coco("s3://none/a.json")
    assert not is_coco(f"{s3}/photos") and not is_coco(f"{s3}/none") and not is_coco(f"{s3}/a/{{train,val}}-*.tar")
