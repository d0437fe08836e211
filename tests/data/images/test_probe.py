"""What a sample of images tells: the usual size, the bits in use, classes that cannot be read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcnet.data.images.folders import FolderImages
from gcnet.data.images.open import open_data, open_evaluation
from gcnet.data.images.probe import estimate_bit_depth, median_size, unreadable_classes, unused_depth_note
from gcnet.data.settings import DataSettings, Preprocessing, PreprocessingSettings
from gcnet.errors import UserError


def add(path: Path, size: tuple[int, int] = (32, 32), largest: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if largest is None:
        Image.new("RGB", size, (1, 2, 3)).save(path)
    else:
        Image.fromarray(np.linspace(0, largest, size[0] * size[1]).reshape(size).astype(np.uint16)).save(path)


def make(root: Path, largest: int | None = None) -> FolderImages:
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        for number in range(4):
            add(root / name / f"{number}.png", largest=largest)
    return FolderImages(root / "train")


def preprocessing(root: Path, **given: object) -> Preprocessing:
    return open_data(DataSettings(data=str(root), **given)).preprocessing  # type: ignore[arg-type]


def test_a_tiny_or_damaged_first_image_has_no_effect_on_the_size(tmp_path: Path) -> None:
    for number in range(5):
        add(tmp_path / "cat" / f"{number}.jpg", (300, 200))
    add(tmp_path / "cat" / "00_icon.png", (16, 16))
    (tmp_path / "cat" / "0.jpg").write_bytes(b"")
    assert median_size(FolderImages(tmp_path)) == (200, 300)


def test_a_rotated_photo_counts_as_it_is_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (300, 200)).save(tmp_path / "cat" / "a.jpg", exif=exif)
    assert median_size(FolderImages(tmp_path)) == (200, 300)


def test_no_image_is_opened_where_both_sizes_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    for path in tmp_path.glob("train/*/*.png"):
        path.rename(path.with_suffix(".jpg"))
    monkeypatch.setattr("gcnet.data.decode.read_header", lambda path: pytest.fail(f"{path} was opened"))
    assert preprocessing(tmp_path, image_size=24, resize=32) == Preprocessing(24, 32)


@pytest.mark.parametrize(("largest", "depth"), [(255, 8), (1023, 10), (4095, 12), (16383, 14), (65535, 16)])
def test_the_largest_value_of_16_bit_images_decides_the_bits_in_use(largest: int, depth: int, tmp_path: Path) -> None:
    assert estimate_bit_depth(make(tmp_path, largest)) == depth
    splits = open_data(DataSettings(data=str(tmp_path)))
    assert splits.preprocessing.bit_depth == depth
    for source in (splits.train, splits.val):
        values = np.asarray(source.read(5))
        assert (values.min(), values.max()) == (0, 255)
    assert any(f"read as {depth}-bit" in note for note in splits.notes) == (depth < 16)


def test_8_bit_images_have_no_estimated_depth_and_a_given_depth_is_used(tmp_path: Path) -> None:
    assert estimate_bit_depth(make(tmp_path / "a")) is None
    make(tmp_path / "b", 1023)
    assert preprocessing(tmp_path / "b", bit_depth="12").bit_depth == 12


def test_evaluation_reads_the_bits_that_the_network_was_trained_with(tmp_path: Path) -> None:
    make(tmp_path, 1023)
    source, _ = open_evaluation(DataSettings(data=str(tmp_path)), preprocessing=Preprocessing(32, bit_depth=12))
    assert np.asarray(source.read(0)).max() == 1023 >> 4


def test_classes_and_validation_sets_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    source = make(tmp_path)
    assert unreadable_classes(source) == []
    for path in (tmp_path / "train" / "dog").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    assert unreadable_classes(source) == ["dog"]
    for path in tmp_path.glob("val/*/*.png"):
        path.write_bytes(b"<html>")
    with pytest.raises(UserError, match="validation: none of the 8 images can be read; .*an HTML page"):
        open_data(DataSettings(data=str(tmp_path)))


def test_images_that_would_be_dark_are_reported_with_the_flag_that_reads_their_full_range(tmp_path: Path) -> None:
    images = make(tmp_path, largest=3000)
    assert "`bit_depth=12`" in (unused_depth_note(images, 16) or "")
    assert unused_depth_note(images, 12) is None
    assert unused_depth_note(make(tmp_path / "8-bit"), 16) is None
    assert PreprocessingSettings(bit_depth="12").applied(Preprocessing(32)).bit_depth == 12
    assert PreprocessingSettings().applied(Preprocessing(32, bit_depth=10)).bit_depth == 10
