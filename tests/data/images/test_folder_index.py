"""The index of the images in class folders: what makes it stale, damage, and several processes."""

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from changed_indexes import changed_indexes
from file_clock import wait_for_clock
from gcnet.data import decode
from gcnet.data.images import folder_index
from gcnet.data.images.folder_index import ClassFiles, list_class_files
from gcnet.data.images.folders import FolderImages, class_folders
from gcnet.data.images.listing import Listing, list_images
from gcnet.data.index_file import index_path, map_index


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every list has an index in this folder, also of folders that just changed."""
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folder_index, "INDEXED_FROM", 0)
    monkeypatch.setattr(folder_index, "_SETTLED_SECONDS", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Class folders with a nested folder, a file that is skipped, and names that are not UTF-8."""
    root = tmp_path / "data"
    for name in ("ant/1.png", "ant/2.JPG", "bee/deep/er/1.png", "bee/0.png", "cat/x.heic", "cat/\udcff\n.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    os.utime(root / "ant", (1, 1))  # a time of its own, also where the clock of the file system is coarse
    return root


def listed(root: Path) -> ClassFiles:
    return list_class_files(root, class_folders(root))


def content(files: ClassFiles) -> tuple[object, ...]:
    return list(files.names), files.counts.tolist(), files.skipped, files.folders, files.links


def walked(root: Path) -> list[str]:
    """The images by the standard library's walk, in no order."""
    paths = [Path(folder, name) for folder, _, names in os.walk(root) for name in names]
    return sorted(str(path.relative_to(root)) for path in paths if path.suffix.lower() in (".png", ".jpg"))


@pytest.mark.usefixtures("cache")
def test_the_second_list_is_read_from_the_index_and_equal(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = listed(root)
    assert list(first.names) == ["ant/1.png", "ant/2.JPG", "bee/0.png", "bee/deep/er/1.png", "cat/\udcff\n.png"]
    assert first.folders == ("ant/", "bee/", "bee/deep/", "bee/deep/er/", "cat/")
    monkeypatch.setattr(folder_index, "list_images", None)
    second = listed(root)
    assert content(second) == content(first)
    assert FolderImages(root).all_labels().tolist() == [0, 0, 1, 1, 2]


def rename(root: Path) -> None:
    (root / "ant/1.png").rename(root / "ant/3.png")


def restore_times(root: Path) -> None:
    before = os.stat(root / "ant")
    (root / "ant/0.png").write_bytes(b"x")
    os.utime(root / "ant", ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_folder(root: Path) -> None:
    shutil.copytree(root / "bee", root.parent / "copy")
    (root.parent / "copy/deep/2.png").write_bytes(b"x")
    shutil.copystat(root / "bee/deep", root.parent / "copy/deep")
    shutil.rmtree(root / "bee")
    (root.parent / "copy").rename(root / "bee")


CHANGES: dict[str, Callable[[Path], object]] = {
    "added": lambda root: (root / "ant/0.png").write_bytes(b"x"),
    "removed": lambda root: (root / "ant/1.png").unlink(),
    "renamed": rename,
    "renamed to another suffix": lambda root: (root / "ant/1.png").rename(root / "ant/1.txt"),
    "added to a nested folder": lambda root: (root / "bee/deep/er/0.png").write_bytes(b"x"),
    "removed from a nested folder": lambda root: (root / "bee/deep/er/1.png").unlink(),
    "nested folder renamed": lambda root: (root / "bee/deep").rename(root / "bee/deeper"),
    "nested folder added": lambda root: shutil.copytree(root / "bee/deep", root / "ant/deep"),
    "class added": lambda root: shutil.copytree(root / "bee", root / "dog"),
    "class removed": lambda root: shutil.rmtree(root / "bee"),
    "class renamed": lambda root: (root / "bee").rename(root / "wasp"),
    "added with the time of the folder restored": restore_times,
    "folder replaced by a copy with its times": replace_folder,
}


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_any_folder_makes_the_index_stale(change: str, root: Path) -> None:
    before = list(listed(root).names)
    wait_for_clock(root)
    CHANGES[change](root)
    after = listed(root)
    assert sorted(after.names) == walked(root) != sorted(before)
    assert content(listed(root)) == content(after)


@pytest.mark.usefixtures("cache")
def test_an_index_of_other_image_formats_is_stale(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(listed(root).names) == 5
    suffixes = decode.IMAGE_SUFFIXES | {".heic"}
    for module in (decode, folder_index):  # a new version of Pillow
        monkeypatch.setattr(module, "IMAGE_SUFFIXES", suffixes)
    assert len(listed(root).names) == 6


def test_folders_changed_in_the_last_two_seconds_are_not_indexed(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_index, "_SETTLED_SECONDS", 2.0)
    listed(root)
    assert not list(cache.rglob("*.safetensors"))
    later = folder_index.time.time_ns() + 3_000_000_000
    monkeypatch.setattr(folder_index.time, "time_ns", lambda: later)
    listed(root)
    assert list(cache.rglob("*.safetensors"))


def test_a_list_with_a_broken_link_is_not_indexed_since_its_target_may_become_a_folder(root: Path, cache: Path) -> None:
    (root / "cat/more").symlink_to(root.parent / "more")
    listed(root)
    assert not list(cache.rglob("*.safetensors"))
    shutil.copytree(root / "bee", root.parent / "more")
    assert len(listed(root).names) == 7


def test_few_images_are_listed_without_an_index(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_index, "INDEXED_FROM", 5)
    assert len(listed(root).names) == 5
    assert not cache.exists()


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("spoil", [damage, lambda path: path.write_bytes(b""), lambda path: path.write_text("{}")])
def test_a_damaged_index_is_rebuilt(spoil: Callable[[Path], object], root: Path) -> None:
    first = content(listed(root))
    path = index_path(root, folder_index._KIND)
    spoil(path)
    assert map_index(path) is None
    assert content(listed(root)) == first
    assert map_index(path) is not None


@pytest.mark.usefixtures("cache")
def test_an_index_that_contradicts_itself_is_rebuilt(root: Path) -> None:
    first = content(listed(root))
    for change in changed_indexes(index_path(root, folder_index._KIND)):
        assert content(listed(root)) == first, change


def test_folders_of_one_time_are_not_indexed_since_some_file_systems_keep_no_times(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_times(folder: Path) -> Listing:  # as on object storage that is mounted as a file system
        listing = list_images(folder)
        listing.folders = dict.fromkeys(listing.folders, (0, 0))
        return listing

    monkeypatch.setattr(folder_index, "list_images", without_times)
    assert len(listed(root).names) == 5
    assert not list(cache.rglob("*.safetensors"))


@pytest.mark.parametrize("place", ["", "gcnet-indexes"])
def test_a_cache_that_cannot_be_written_is_no_error(place: str, root: Path, cache: Path) -> None:
    (cache / place).parent.mkdir(exist_ok=True)
    (cache / place).touch()
    assert len(listed(root).names) == 5


def note_walk(root: Path, log: Path, started: object) -> None:
    """List in a process, after the others have started, and write which walk it took."""
    original = folder_index._listed

    def noted(*arguments: object) -> object:
        with open(log, "a") as file:
            file.write("walk\n")
        folder_index.time.sleep(0.3)
        return original(*arguments)

    folder_index._listed = noted
    started.wait()  # type: ignore[attr-defined]
    assert len(listed(root).names) == 5


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_of_several_processes_one_lists_the_files(root: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Barrier(4)
    children = [context.Process(target=note_walk, args=(root, tmp_path / "log", started)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert (tmp_path / "log").read_text() == "walk\n"


@pytest.mark.usefixtures("cache")
def test_labels_and_messages_do_not_depend_on_the_index(root: Path) -> None:
    expected = FolderImages(root, classes=("cat", "ant", "bee"))
    again = FolderImages(root, classes=("cat", "ant", "bee"))
    for images in (expected, again):
        assert images.all_labels().tolist() == [1, 1, 2, 2, 0]
        assert images.notes == (f"{root}: skipped 1 file of unsupported formats (1 .heic)",)
    assert np.array_equal(expected.all_labels(), again.all_labels())
