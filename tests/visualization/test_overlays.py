"""Masks, boxes and labels of objects are drawn at their places, in colors of their own, and labels give way."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from gcnet.data.coco.masks import compressed_runs
from gcnet.visualization.overlays import CROWDED, OPACITY, Overlay, draw_overlays, instance_color

SIZE = (20, 30)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def rectangle(rows: slice, columns: slice, color: tuple[int, int, int] = RED, text: str = "", **entry: Any) -> Overlay:
    mask = np.zeros(SIZE, dtype=bool)
    mask[rows, columns] = True
    box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
    return Overlay({"bbox": box, "segmentation": compressed_runs(mask)} | entry, color, text)


def drawn(*overlays: Overlay, scale: int = 1, labels: Any = "off") -> np.ndarray:
    image = Image.new("RGB", (SIZE[1] * scale, SIZE[0] * scale))
    return np.asarray(draw_overlays(image, overlays, SIZE, labels=labels)).astype(int)


@pytest.mark.parametrize("scale", [1, 4])
def test_a_mask_is_tinted_at_its_place_in_an_image_of_any_size(scale: int) -> None:
    expected = np.zeros(SIZE, dtype=bool)
    expected[4:12, 6:16] = True
    expected = expected.repeat(scale, axis=0).repeat(scale, axis=1)
    pixels = drawn(rectangle(slice(4, 12), slice(6, 16)), scale=scale)
    assert np.array_equal(pixels.any(axis=2), expected)
    assert pixels[8 * scale, 11 * scale] == pytest.approx([OPACITY * 255, 0, 0], abs=1)
    assert tuple(pixels[4 * scale, 6 * scale]) == RED, "the frame"


def test_the_first_object_lies_on_top_where_masks_overlap() -> None:
    top, below = rectangle(slice(2, 10), slice(2, 10)), rectangle(slice(6, 18), slice(6, 18), BLUE)
    pixels = drawn(top, below)
    assert pixels[8, 8] == pytest.approx([OPACITY * 255, 0, 0], abs=1)
    assert pixels[15, 15] == pytest.approx([0, 0, OPACITY * 255], abs=1)


def test_touching_objects_have_a_contour_between_them() -> None:
    left, right = (rectangle(slice(0, 20), columns, bbox=[0, 0, 1, 1]) for columns in (slice(0, 15), slice(15, 30)))
    pixels = drawn(left, right)
    assert all(tuple(pixels[10, column]) == RED for column in (14, 15))
    assert all(tuple(pixels[10, column]) != RED for column in (7, 22))


def test_neighboring_instances_have_different_colors() -> None:
    colors = [instance_color(index) for index in range(100)]
    assert all(one != other for one, other in zip(colors, colors[1:], strict=False))
    assert len(set(colors)) == 12


def test_boxes_without_masks_and_of_no_size_are_drawn() -> None:
    assert drawn(Overlay({"bbox": [5.2, 3.4, 0.0, 0.0]}, RED)).any()
    assert (drawn(Overlay({"bbox": [2, 3, 7, 5]}, RED))[3, 2:9] == RED).all()


def test_a_label_does_not_cover_an_earlier_label() -> None:
    first = rectangle(slice(8, 12), slice(6, 16), text="first")
    second = rectangle(slice(8, 12), slice(6, 16), BLUE, text="second")
    both, single = (drawn(*overlays, scale=10, labels="auto") for overlays in ((first, second), (first,)))
    assert np.array_equal(both[60:78, 60:100], single[60:78, 60:100]), "above the box"
    assert not np.array_equal(both, drawn(first, second, scale=10))


def test_a_label_without_room_is_skipped_unless_all_are_asked_for() -> None:
    overlays = [rectangle(slice(8, 12), slice(6, 16), text=text) for text in ["cat"] * 4 + ["dog"] * 5]
    four = drawn(*overlays[:4], scale=10, labels="auto")
    assert np.array_equal(drawn(*overlays, scale=10, labels="auto"), four), "there are four places"
    assert not np.array_equal(drawn(*overlays, scale=10, labels="on"), four)


def test_crowded_images_have_neither_labels_nor_frames_around_masks() -> None:
    masks = [rectangle(slice(8, 12), slice(6, 16), text="cat", bbox=[0, 0, 30, 20]) for _ in range(CROWDED + 1)]
    assert not drawn(*masks, labels="auto")[0].any()
    assert drawn(*masks[1:])[0].any(), "one less has frames"


@pytest.mark.parametrize("size", [(1, 1), (1, 977), (977, 1)])
def test_labels_fit_images_of_any_shape(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size[::-1])
    overlay = Overlay({"bbox": [0, 0, size[1], size[0]]}, RED, "a long name " * 30)
    assert draw_overlays(image, [overlay], size).size == image.size
