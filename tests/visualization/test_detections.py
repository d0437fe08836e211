"""Pictures of detections show each mask, box, name and score at its place, at any size of the image."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gcnet.data.coco.masks import compressed_runs
from gcnet.visualization.detections import draw_detections, picture_names
from gcnet.visualization.overlays import instance_color

NAMES = {1: "ball", 5: "traffic light", 7: "x" * 300, 8: "line\nbreak"}


def result(box: tuple[int, int, int, int], size: tuple[int, int], category: int = 1, score: float = 0.75) -> dict:
    """A detection of a rectangle, left, top, width and height, in an image of `size` (height, width)."""
    left, top, width, height = box
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return {"category_id": category, "bbox": list(box), "score": score, "segmentation": compressed_runs(mask)}


def drawn(size: tuple[int, int], *results: dict, labels: Any = "auto") -> np.ndarray:
    image = Image.new("RGB", (size[1], size[0]), (60, 60, 60))
    return np.asarray(draw_detections(image, results, NAMES, labels=labels)).astype(int)


@pytest.mark.parametrize(
    ("size", "picture"),
    [
        ((64, 64), (960, 960)),  # 15 times
        ((37, 53), (37 * 19, 53 * 19)),
        ((480, 640), (960, 1280)),
        ((960, 500), (960, 500)),
        ((1500, 2000), (1500, 2000)),
        ((3000, 4096), (1500, 2048)),
        ((1, 1), (960, 960)),
    ],
)
def test_small_images_are_enlarged_by_whole_factors_and_large_ones_shrunk(
    size: tuple[int, int], picture: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = np.asarray(draw_detections(Image.fromarray(pixels), [], NAMES))
    assert found.shape == (*picture, 3)
    if max(size) < 960:
        factor = picture[0] // size[0]
        assert np.array_equal(found, np.kron(pixels, np.ones((factor, factor, 1), dtype=np.uint8)))


@pytest.mark.parametrize(("size", "factor"), [((48, 96), 10), ((1000, 1400), 1), ((2048, 4096), 0.5)])
def test_masks_and_boxes_are_drawn_where_they_are_in_the_image(size: tuple[int, int], factor: float) -> None:
    height, width = size
    box = (width // 8, height // 2, width // 4, height // 4)
    pixels = drawn(size, result(box, size), labels="off")
    left, top, right, bottom = (round(value * factor) for value in (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    color = np.array(instance_color(0))
    for row, column in ((top, left), (top, right - 1), (bottom - 1, left), (bottom - 1, right - 1)):
        assert np.array_equal(pixels[row, column], color), "a corner of the frame"
    middle = pixels[(top + bottom) // 2, (left + right) // 2]
    assert np.abs(middle - (0.6 * 60 + 0.4 * color)).max() <= 1
    outside = np.ones(pixels.shape[:2], dtype=bool)
    outside[top:bottom, left:right] = False
    assert (pixels[outside] == 60).all()


def test_class_and_score_are_above_a_box_in_letters_of_at_least_13_pixels() -> None:
    size = (480, 640)
    one = drawn(size, result((200, 200, 50, 60), size))
    patch = np.argwhere((one[:400] != 60).any(axis=2))
    (top, left), (bottom, right) = patch.min(axis=0), patch.max(axis=0)
    assert bottom >= 390 and 398 <= left <= 404
    assert bottom - top >= 10
    assert right - left > 50, '"ball 0.75"'
    other = drawn(size, result((200, 200, 50, 60), size, score=0.5))
    assert not np.array_equal(one, other), "the score is part of the text"
    assert np.array_equal(
        drawn(size, result((200, 200, 50, 60), size), labels="off")[:400], np.full((400, 1280, 3), 60)
    )


@pytest.mark.parametrize("size", [(1, 10_000), (300, 1), (2, 3)])
@pytest.mark.parametrize("category", NAMES)
def test_images_of_any_shape_and_names_of_any_length_are_drawn(size: tuple[int, int], category: int) -> None:
    pixels = drawn(size, result((0, 0, size[1], size[0]), size, category))
    assert max(pixels.shape[:2]) in (*range(960, 1921), 2048)


def test_pictures_of_images_with_the_same_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / "a.png", tmp_path / "y" / "a.png", tmp_path / "x" / "A.jpg", tmp_path / "x_a.png"]
    names = picture_names(paths, tmp_path / "drawn")
    assert list(names) == paths
    assert names[paths[0]] == "x_a-detections.jpg"
    assert len({name.casefold() for name in names.values()}) == 4


def test_a_picture_is_never_written_over_an_image_itself(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "a-detections.jpg", "A-Detections-2.jpg")]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "b-detections.jpg").touch()
    (tmp_path / "elsewhere" / "link.jpg").symlink_to(tmp_path / "b-detections.jpg")
    paths += [tmp_path / "b.png", tmp_path / "elsewhere" / "link.jpg"]
    (tmp_path / "same").symlink_to(tmp_path)
    names = picture_names(paths, tmp_path / "same")
    images = {path.name.casefold() for path in tmp_path.iterdir()} | {path.name.casefold() for path in paths}
    assert not images & {name.casefold() for name in names.values()}
    assert len(set(names.values())) == 5


@pytest.mark.parametrize(
    "name", ["two\nlines.png", "caf\udce9.png", "-rf.png", ".hidden.png", "a b;$(c).png", "...", "\u4e2d" * 80 + ".png"]
)
def test_names_of_pictures_are_safe(name: str, tmp_path: Path) -> None:
    picture = picture_names([tmp_path / name], tmp_path)[tmp_path / name]
    assert len(os.fsencode(picture)) < 200
    assert picture.isprintable()
    assert picture[0] not in ".-"
    assert not set(picture) & set(" /\\;$()\n")
    (tmp_path / picture).write_bytes(b"")
