"""Images with an EXIF orientation are read as their annotations see them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.coco.annotated import HEIGHT, WIDTH, content, write_json, write_layout
from gcnet.data.coco.annotated_images import CocoImages, FolderReader
from gcnet.data.coco.open import open_coco
from gcnet.data.decode import ImageError
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError


def write(path: Path, orientation: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """Write an image that is red in its left third as it is stored; returns the stored pixels."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[:, : size[0] // 3, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return pixels


def open_images(folder: Path, *sizes: tuple[str, int, int]) -> CocoImages:
    """Images by name, width and height."""
    found = content([name for name, _, _ in sizes])
    for image, (_, width, height) in zip(found["images"], sizes, strict=True):
        image.update(width=width, height=height)
    return CocoImages(found, FolderReader(folder, found["images"]))


def test_the_annotated_size_determines_the_orientation(tmp_path: Path):
    stored = write(tmp_path / "a.png", 6)
    as_stored, upright = (open_images(tmp_path, ("a.png", *size)) for size in ((WIDTH, HEIGHT), (HEIGHT, WIDTH)))
    assert np.array_equal(np.asarray(as_stored.read(0)), stored)
    assert np.array_equal(np.asarray(upright.read(0)), np.rot90(stored, -1))  # 6: to be turned clockwise


def test_images_of_ambiguous_orientation_follow_the_others(tmp_path: Path):
    write(tmp_path / "a.png", 6)
    half = write(tmp_path / "half.png", 3)
    square = write(tmp_path / "square.png", 6, (WIDTH, WIDTH))
    others = ("half.png", WIDTH, HEIGHT), ("square.png", WIDTH, WIDTH)
    as_stored = open_images(tmp_path, ("a.png", WIDTH, HEIGHT), *others)
    assert np.array_equal(np.asarray(as_stored.read(1)), half)
    assert np.array_equal(np.asarray(as_stored.read(2)), square)
    for images in (open_images(tmp_path, ("a.png", HEIGHT, WIDTH), *others), open_images(tmp_path, *others)):
        assert np.array_equal(np.asarray(images.read(len(images) - 2)), half[::-1, ::-1])
        assert np.array_equal(np.asarray(images.read(len(images) - 1)), np.rot90(square, -1))


def test_orientation_of_stored_sizes_is_reported_once(tmp_path: Path):
    write(tmp_path / "a.png", 6)
    write(tmp_path / "b.png", 8)
    entries = content(["a.png", "b.png"])["images"]
    assert len([note for note in FolderReader(tmp_path, entries).notes() if "EXIF" in note]) == 1
    assert FolderReader(tmp_path, [{**entry, "width": HEIGHT, "height": WIDTH} for entry in entries]).notes() == []


def test_swapped_sizes_without_an_orientation_are_refused_with_the_likely_reason(tmp_path: Path):
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="its annotations have 23 x 17, perhaps after losing an EXIF orientation"):
        open_images(tmp_path, ("a.png", WIDTH, HEIGHT)).read(0)


def test_images_of_which_none_has_its_size_are_refused_at_the_start(tmp_path: Path):
    write_layout(tmp_path, {"train.json": ("images", ""), "val.json": ("images", "")})
    val = json.loads((tmp_path / "val.json").read_text())
    for image in val["images"]:
        image["height"] = HEIGHT + 1
    write_json(tmp_path / "val.json", val)
    with pytest.raises(UserError, match=r"val\.json: no image has its annotated size: 1_0\.png has 23 x 17 pixels"):
        open_coco(DataSettings(str(tmp_path)))
    val["images"][0]["height"] = HEIGHT
    write_json(tmp_path / "val.json", val)
    assert len(open_coco(DataSettings(str(tmp_path)))[1].images) == 2
