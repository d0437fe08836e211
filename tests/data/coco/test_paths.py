"""Image paths of annotation files, as tools of other systems and machines write them."""

import os
from pathlib import Path

import pytest

from gcnet.data.coco.paths import AMBIGUOUS, MISSING, OUTSIDE, resolve_paths


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image")
    return folder


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("sub\\a.png", "sub/a.png"),
        (".\\sub\\a.png", "sub/a.png"),
        ("a%20b.png", "a b.png"),
        ("a+b.png", "a b.png"),
        (" a.png ", "a.png"),
        ("sub%2Fa.png", "sub/a.png"),
        ("train2017/a.png", "a.png"),
        ("images/sub/a.png", "sub/a.png"),
        ("../../label-studio/data/media/upload/1/a.png", "a.png"),
        ("/data/local-files/?d=photos/sub/a.png", "sub/a.png"),
        ("../../label-studio/data/local-files/?d=photos/a%20b.png", "a b.png"),
        ("/home/someone/photos/a.png", "a.png"),
        ("C:\\Users\\someone\\photos\\a.png", "a.png"),
        ("https://example.org/photos/a%20b.png?size=full", "a b.png"),
        ("s3://bucket/photos/a.png", "a.png"),
        ("a.PNG", "a.png"),
        ("A.png", "a.png"),
        ("e\u0301.png", "\u00e9.png"),
    ],
)
def test_paths_of_tools_are_repaired(tmp_path: Path, written: str, file: str):
    resolved = resolve_paths(write(tmp_path, file), [written])
    assert resolved.path(written) == str(tmp_path / file)
    assert resolved.repaired() == {written: file}
    assert resolved.note() is not None


@pytest.mark.parametrize("written", ["a.png", "./a.png", "sub/../a.png", "sub//b.png", "100%20.png"])
def test_paths_that_are_right_are_left_alone(tmp_path: Path, written: str):
    resolved = resolve_paths(write(tmp_path, "a.png", "sub/b.png", "100%20.png", "100 .png"), [written])
    assert resolved.path(written) is not None
    assert os.path.samefile(resolved.path(written) or "", tmp_path / written)
    assert (resolved.repaired(), resolved.note()) == ({}, None)


def test_an_absolute_path_inside_the_folder_is_right(tmp_path: Path):
    written = str(write(tmp_path, "a.png") / "a.png")
    resolved = resolve_paths(tmp_path, [written])
    assert (resolved.path(written), resolved.repaired()) == (written, {})


def test_no_path_as_written_leaves_the_folder(tmp_path: Path):
    write(tmp_path, "out.png", "in/a.png", "inner/b.png")
    names = ["../out.png", str(tmp_path / "out.png"), "../inner/b.png", "x/../../out.png", "gone.png"]
    resolved = resolve_paths(tmp_path / "in", names)
    assert list(resolved.missing.values()) == [OUTSIDE, OUTSIDE, OUTSIDE, OUTSIDE, MISSING]
    assert resolved.path("../out.png") is None


def test_symbolic_links_are_followed(tmp_path: Path):
    write(tmp_path / "pool", "a.png", "deep/b.png")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "pool" / "a.png")
    (folder / "linked").symlink_to(tmp_path / "pool" / "deep")
    resolved = resolve_paths(folder, ["link.png", "linked/b.png"])
    assert (resolved.missing, resolved.repaired()) == ({}, {})


def test_two_names_never_share_a_file_by_repair(tmp_path: Path):
    resolved = resolve_paths(write(tmp_path, "1.png", "2.png"), ["cam1/1.png", "cam2/1.png", "2.png", "cam1/2.png"])
    assert resolved.files == {"2.png": "2.png"}
    assert set(resolved.missing.values()) == {AMBIGUOUS}


def test_files_that_differ_in_case_only_are_not_guessed(tmp_path: Path):
    resolved = resolve_paths(write(tmp_path, "a.png", "A.PNG"), ["a.Png"])
    assert resolved.missing == {"a.Png": MISSING}


@pytest.mark.parametrize("name", ["", ".", "..", "/", "http://[", "a\0.png", "%00", "?d=", "\\", "C:\\"])
def test_names_that_are_no_path_are_missing(tmp_path: Path, name: str):
    assert resolve_paths(write(tmp_path, "a.png"), [name]).path(name) is None


def test_repairs_are_counted_once(tmp_path: Path):
    resolved = resolve_paths(write(tmp_path, "a.png", "b.png", "c.png"), ["x\\a.png", "x\\b.png", "c.png"])
    assert resolved.note() == '2 image paths were repaired, such as "x\\a.png" to "a.png"'
