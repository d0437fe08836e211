"""Uploads are checked before they are decoded; only files of their folder are opened."""

from pathlib import Path

import pytest
from PIL import Image

from demo.hostile_files import READABLE, REFUSED, encoded, photo
from gcnet.demo.settings import DemoSettings
from gcnet.demo.uploads import Uploads, example_images
from gcnet.errors import UserError

SETTINGS = DemoSettings(("model",), max_bytes=200_000, max_pixels=1_000_000)


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in ("truncated.jpg", "float.tif")])
def test_a_hostile_file_is_refused_by_its_header(tmp_path: Path, name: str) -> None:
    content, reason = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        Uploads(tmp_path, SETTINGS).check(str(tmp_path / name))
    assert str(error.value).startswith(f"{name}: {reason}")


@pytest.mark.parametrize("name", READABLE)
def test_an_unusual_image_passes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(READABLE[name])
    assert Uploads(tmp_path, SETTINGS).check(str(tmp_path / name)) == tmp_path / name


def test_a_file_over_the_limit_of_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wide.png").write_bytes(encoded(photo(300, 300), "PNG"))
    with pytest.raises(UserError, match=r"wide.png: 270,\d+ bytes, over the limit of 200,000 bytes"):
        Uploads(tmp_path, SETTINGS).check(str(tmp_path / "wide.png"))


def test_only_files_of_the_folder_are_opened(tmp_path: Path) -> None:
    folder, secret = tmp_path / "uploads", tmp_path / "secret.png"
    folder.mkdir()
    secret.write_bytes(encoded(photo(), "PNG"))
    (folder / "link.png").symlink_to(secret)
    uploads = Uploads(folder, SETTINGS)
    forged = [
        str(secret),
        str(folder / ".." / "secret.png"),
        str(folder / "link.png"),
        str(folder),
        "/etc/passwd",
        "http://127.0.0.1/a.png",
        f"file://{secret}",
        "",
        f"{folder}/a\0.png",
    ]
    for path in forged:
        assert not uploads.has(path), path
        with pytest.raises(UserError, match="there is no such upload"):
            uploads.check(path)
    assert not uploads.has(None) and not uploads.has({"path": str(secret)})


def test_generated_scenes_are_the_examples_unless_a_folder_is_given(tmp_path: Path) -> None:
    paths = example_images(None, Uploads(tmp_path, SETTINGS), tmp_path)
    assert len(paths) == 6
    for path in paths:
        with Image.open(path) as image:
            assert image.size == (128, 128)


def test_examples_are_those_of_the_folder_within_the_limits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos, uploads = tmp_path / "photos", Uploads(tmp_path / "uploads", SETTINGS)
    photos.mkdir()
    for number in range(14):
        (photos / f"{number:02}.png").write_bytes(encoded(photo(), "PNG"))
    assert len(example_images(photos, uploads, tmp_path)) == 12
    (photos / "00.png").write_bytes(REFUSED["bomb.png"][0])
    found = example_images(photos, uploads, tmp_path)
    assert len(found) == 11 and "example skipped: 00.png: more pixels than the limit" in caplog.text
    for path in photos.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="has no image within the limits of uploads"):
        example_images(photos, uploads, tmp_path)
