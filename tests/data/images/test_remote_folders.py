from collections.abc import Callable
from pathlib import Path

import pytest

from gcnet.data.decode import EncodedImage, ImageError
from gcnet.data.images.labeled import open_labeled, open_labeled_validation, open_splits
from gcnet.data.images.probe import estimate_bit_depth, median_size, unreadable_classes
from gcnet.data.images.remote_images import RemoteImages
from gcnet.data.images.sources import CachedImages, SubsetImages
from gcnet.data.images.write_shards import write_shards
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError
from gcnet.remote_files import file_system
from training.photos import write_photos


@pytest.fixture
def photos(tmp_path: Path, s3: str) -> tuple[Path, str]:
    """Class folders on this machine and the same in a bucket."""
    folder = write_photos(tmp_path / "photos", train_images=3, val_images=2)
    for path in folder.rglob("*.png"):
        file_system(s3).pipe_file(f"{s3}/photos/{path.relative_to(folder)}", path.read_bytes())
    return folder, f"{s3}/photos"


def test_images_labels_and_order_are_those_of_the_folder(photos: tuple[Path, str]) -> None:
    local, remote = (open_labeled(DataSettings(data=str(data)), 0) for data in photos)
    for expected, found in zip(local, remote, strict=True):
        assert found.classes == expected.classes and len(found) == len(expected)
        for index in range(len(expected)):
            assert found.name(index) == expected.name(index)
            assert found.label(index) == expected.label(index)
            assert found.file_size(index) == expected.file_size(index)
            assert found.read(index).tobytes() == expected.read(index).tobytes()


def test_validation_lists_no_training_image(photos: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []
    system = file_system(photos[1])
    find = system.find
    monkeypatch.setattr(system, "find", lambda url, **options: listed.append(url) or find(url, **options))
    images = open_labeled_validation(DataSettings(data=photos[1]), 0, None)
    assert len(images) == 6 and images.classes == ("blue", "green", "red")
    assert listed == [f"{photos[1]}/val"]


def test_folders_without_splits_are_held_out(photos: tuple[Path, str]) -> None:
    settings = DataSettings(data=f"{photos[1]}/train", val_fraction=0.3)
    assert [len(source) for source in open_labeled(settings, 0)] == [6, 3]


def test_other_and_hidden_files_are_skipped_with_a_note(photos: tuple[Path, str]) -> None:
    system = file_system(photos[1])
    for name in ("train/red/notes.txt", "train/.cache/x.png", "train/loose.png"):
        system.pipe_file(f"{photos[1]}/{name}", b"x")
    (train, _) = open_splits(photos[1]).values()
    assert len(train) == 9
    assert train.notes == (f"{photos[1]}/train: skipped 2 other files (1 .png, 1 .txt)",)


def test_an_archive_beside_class_folders_is_not_read_as_a_shard(photos: tuple[Path, str]) -> None:
    file_system(photos[1]).pipe_file(f"{photos[1]}/ILSVRC2012_img_train.tar", b"not read")
    assert [len(source) for source in open_labeled(DataSettings(data=photos[1]), 0)] == [9, 6]


def test_folders_of_tools_are_no_classes(photos: tuple[Path, str]) -> None:
    for split in ("train/__MACOSX", "train/@eaDir", "__MACOSX/train"):
        file_system(photos[1]).pipe_file(f"{photos[1]}/{split}/x.png", b"x")
    splits = open_splits(photos[1])
    assert [images.classes for images in splits.values()] == [("blue", "green", "red")] * 2
    assert open_labeled_validation(DataSettings(data=photos[1]), 0, None).classes == ("blue", "green", "red")
    assert splits["train"].notes == ()


def test_every_class_folder_needs_images_and_objects_of_folders_are_no_files(photos: tuple[Path, str]) -> None:
    file_system(photos[1]).pipe_file(f"{photos[1]}/train/blue/", b"")  # as S3's console makes folders
    assert open_labeled(DataSettings(data=photos[1]), 0)[0].notes == ()
    file_system(photos[1]).pipe_file(f"{photos[1]}/train/black/", b"")
    with pytest.raises(
        UserError, match="every class folder needs images, found none in s3://bucket/photos/train/black"
    ):
        open_labeled(DataSettings(data=photos[1]), 0)


def test_a_removed_image_is_skipped_and_other_mistakes_are_named(photos: tuple[Path, str]) -> None:
    images = open_splits(photos[1])["val"]
    file_system(photos[1]).rm_file(f"{photos[1]}/val/{images.name(0)}")
    with pytest.raises(ImageError, match="blue/0.png: no such file"):
        images.read(0)
    for data, message in (
        ("s3://none/photos", "nothing at s3://none/photos: The specified bucket does not exist"),
        (f"{photos[1]}/none", "nothing at s3://bucket/photos/none"),
        (f"{photos[1]}/train/red", "no class folders or shards at s3://bucket/photos/train/red"),
        (f"{photos[1]}/list.json", "takes shards, a CSV or a folder of class folders at a URL, found"),
        (f"{photos[1]}/list.csv", "there is no file s3://bucket/photos/list.csv"),
    ):
        with pytest.raises(UserError, match=message):
            open_labeled(DataSettings(data=data), 0)


@pytest.mark.parametrize("is_sharded", [False, True])
def test_images_of_a_batch_are_requested_at_the_same_time(
    photos: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_sharded: bool
) -> None:
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))
    url = photos[1]
    if is_sharded:
        write_shards(open_splits(url), tmp_path / "shards")
        file_system(url).put(f"{tmp_path}/shards/", f"{url}-shards/", recursive=True)
        url = f"{url}-shards"
    images = open_splits(url)["train"]
    expected = [images.encoded(index).data for index in range(9)]
    subset = CachedImages(SubsetImages(images, [8, 3, 5]))
    subset.prefetch([0, 2, 1, 0])
    monkeypatch.setattr("gcnet.data.images.remote_reader.read_remote", None)
    monkeypatch.setattr("gcnet.data.images.shard_files.read_remote", None)
    assert [subset.encoded(index).data for index in range(3)] == [expected[8], expected[3], expected[5]]


def test_an_image_that_cannot_be_prefetched_is_read_again(photos: tuple[Path, str]) -> None:
    images = open_splits(photos[1])["val"]
    file_system(photos[1]).rm_file(f"{photos[1]}/val/{images.name(0)}")
    images.prefetch([0, 1])
    with pytest.raises(ImageError, match="no such file"):
        images.read(0)
    assert images.read(1).size == (11, 11)


@pytest.mark.parametrize("prefetches", [False, True])
def test_a_file_that_was_replaced_after_it_was_listed_is_read_whole(photos: tuple[Path, str], prefetches: bool) -> None:
    images = open_splits(photos[1])["val"]
    contents = [b"short", bytes(5000), b""]
    for index, content in enumerate(contents):
        file_system(photos[1]).pipe_file(f"{photos[1]}/val/{images.name(index)}", content)
    if prefetches:
        images.prefetch([0, 1, 2])
    assert [images.encoded(index).data for index in range(3)] == contents
    images._reader._largest = 4999
    with pytest.raises(ImageError, match=r"blue/1.png: 5,000 bytes, over the limit of 4,999$"):
        images.read(1)


NAMES = [
    "a b",
    "caf\u00e9",
    "p%20q",
    "x+y",
    "h#1",
    "q?v=1",
    "br[0]",
    "st*r",
    "a&=b",
    "semi;colon",
    'quo"te',
    "back\\slash",
]


def test_names_of_files_and_folders_stand_for_themselves(photos: tuple[Path, str], s3: str) -> None:
    url, content = f"{s3}/set [1] 50%?*", (photos[0] / "val" / "red" / "0.png").read_bytes()
    for name in NAMES:
        file_system(s3).pipe_file(f"{url}/train/{name}/{name}.png", content)
    images = open_splits(f"{url}/")["train"]
    assert images.classes == tuple(sorted(NAMES))
    assert sorted(images.name(index) for index in range(len(images))) == sorted(f"{name}/{name}.png" for name in NAMES)
    images.prefetch(range(len(images)))
    assert {images.encoded(index).data for index in range(len(images))} == {content}
    images.prefetch([])
    assert {images.encoded(index).data for index in range(len(images))} == {content}


def test_shards_in_folders_of_any_name_are_found(photos: tuple[Path, str], s3: str, tmp_path: Path) -> None:
    write_shards(open_splits(photos[1]), tmp_path / "shards")
    url = f"{s3}/shards [1] {{a}}?"
    for path in (tmp_path / "shards").iterdir():
        file_system(s3).pipe_file(f"{url}/{path.name}", path.read_bytes())
    assert {split: len(images) for split, images in open_splits(url).items()} == {"train": 9, "val": 6}


def test_samples_of_images_are_requested_in_groups(photos: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    file_system(photos[1]).pipe_file(f"{photos[1]}/train/red/0.png", b"<html>")
    (photos[0] / "train" / "red" / "0.png").write_bytes(b"<html>")
    for name in ("blue/0.png", "blue/1.png", "blue/2.png"):
        file_system(photos[1]).pipe_file(f"{photos[1]}/train/{name}", b"")
        (photos[0] / "train" / name).write_bytes(b"")
    local, remote = (open_splits(str(data))["train"] for data in photos)
    monkeypatch.setattr(remote._reader, "read", without_single_requests(remote))
    for probe in (median_size, estimate_bit_depth, unreadable_classes):
        assert probe(remote) == probe(local)
    assert unreadable_classes(remote) == ["blue"]


def without_single_requests(images: RemoteImages) -> Callable[..., EncodedImage]:
    """Read images that were requested before, and empty ones, which need no request."""
    read = images._reader.read

    def checked(name: str, url: str, size: int) -> EncodedImage:
        assert url in images._reader._fetched or size == 0
        return read(name, url, size)

    return checked


def test_validation_images_without_class_folders_are_counted(photos: tuple[Path, str]) -> None:
    for number in (1, 2):
        file_system(photos[1]).pipe_file(f"{photos[1]}/flat/train/{number}/a.png", b"x")
        file_system(photos[1]).pipe_file(f"{photos[1]}/flat/val/ILSVRC2012_val_{number:08}.JPEG", b"x")
    with pytest.raises(UserError, match="flat/val holds 2 images but no class folders, as the archive of ImageNet"):
        open_labeled(DataSettings(data=f"{photos[1]}/flat"), 0)
