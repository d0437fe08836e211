"""Masks of annotations are those of the COCO API, and damaged run lengths are refused rather than read."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from gcnet.data.coco.annotated_images import CocoImages
from gcnet.data.coco.masks import BitMasks, extent, polygons_mask, run_lengths, runs_mask, segmentation_mask


def blobs(height: int, width: int, seed: int) -> np.ndarray:
    """A mask of a few rectangles."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((height, width), dtype=bool)
    for _ in range(generator.integers(0, 5)):
        top, left = generator.integers(height), generator.integers(width)
        mask[top : top + generator.integers(1, height + 1), left : left + generator.integers(1, width + 1)] ^= True
    return mask


def encoded(mask: np.ndarray) -> str:
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


@given(st.integers(1, 61), st.integers(1, 61), st.integers(0, 999))
def test_the_compressed_text_of_the_coco_api_gives_its_mask(height: int, width: int, seed: int) -> None:
    mask = blobs(height, width, seed)
    assert np.array_equal(runs_mask(encoded(mask), height, width), mask)


def test_long_runs_and_falling_ones_need_several_characters_and_a_sign() -> None:
    mask = np.zeros((997, 1009), dtype=bool)
    mask[5:990, 3] = mask[1, 500:900] = mask[700:703, 1000] = True
    assert np.array_equal(runs_mask(encoded(mask), 997, 1009), mask)


def test_runs_go_down_the_columns_off_first() -> None:
    expected = [[False, True, False], [True, True, False]]
    assert runs_mask([1, 3, 2], 2, 3).tolist() == expected


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with numpy 2
@pytest.mark.parametrize(
    ("polygons", "size"),
    [
        ([[1, 1, 7, 1, 7, 5, 1, 5]], (7, 11)),
        ([[0.3, 0.2, 10.6, 3.1, 2.2, 6.9], [5, 0, 11, 0, 11, 7]], (7, 11)),
        ([[2, 2, 2, 2, 2, 2]], (5, 5)),
    ],
    ids=["rectangle", "two that overlap", "a point"],
)
def test_polygons_are_drawn_as_the_coco_api_draws_them(polygons: list[list[float]], size: tuple[int, int]) -> None:
    expected = coco.decode(coco.merge(coco.frPyObjects(polygons, *size))).astype(bool)
    assert np.array_equal(polygons_mask(polygons, *size), expected)
    assert np.array_equal(segmentation_mask(polygons, *size), expected)


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ([1, 2], "cover 3 of 6 pixels"),
        ([7, -1], "negative"),
        ([1.5, 4.5], "neither integers nor text"),
        ([True, 5], "neither integers nor text"),
        (None, "neither integers nor text"),
        ("", "cover 0 of 6"),
        ("1`", "end within a number"),
        ("é", "invalid characters"),
        ("15!", "invalid characters"),
        ("f" * 300, "end within a number"),
    ],
)
def test_invalid_run_lengths_are_errors(counts: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        runs_mask(counts, 2, 3)


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        lengths = run_lengths(text)
    except ValueError:
        return
    assert all(length >= 0 for length in lengths)


@given(st.integers(1, 31), st.integers(1, 31), st.integers(0, 999))
def test_the_extent_of_run_lengths_matches_their_mask(height: int, width: int, seed: int) -> None:
    mask = blobs(height, width, seed)
    pixels, box = extent({"size": [height, width], "counts": encoded(mask)}, height, width)
    assert pixels == mask.sum()
    if pixels:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        sides = [columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        assert box == [columns[0], rows[0], *sides]


def test_the_extent_of_polygons_matches_their_mask() -> None:
    polygons = [[2, 1, 7, 1, 7, 5, 2, 5], [8, 6, 10, 6, 10, 7, 8, 7]]
    mask = polygons_mask(polygons, 11, 13)
    assert extent(polygons, 11, 13) == (mask.sum(), [2, 1, 8, 6])


TRIANGLE = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0]


def one_image(*annotations: dict[str, object]) -> CocoImages:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 30}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 9.0, **annotation}
            for number, annotation in enumerate(annotations, start=1)
        ],
    }
    return CocoImages(content, lambda _: Image.new("RGB", (20, 30)))


def test_packed_masks_unpack_to_the_same() -> None:
    masks = np.random.default_rng(0).integers(0, 2, (4, 5, 13)).astype(bool)
    packed = BitMasks.pack(masks, 4, 5, 13)
    assert np.array_equal(packed.dense().numpy(), masks)
    assert [mask.tolist() for mask in packed] == masks.astype(int).tolist()
    assert packed.bits.shape == (4, 5, 2)
    flipped = packed.map(lambda mask: mask.flip(-1), 5, 13)
    assert np.array_equal(flipped.dense().numpy(), masks[:, :, ::-1])
    assert BitMasks.pack([], 0, 5, 13).dense().shape == (0, 5, 13)


def test_objects_without_a_mask_have_an_empty_mask_and_has_mask_false() -> None:
    box = {"bbox": [2, 3, 4, 5]}
    objects = one_image(box, {**box, "segmentation": [[2.0, 3.0, 6.0, 3.0, 6.0, 8.0]]}, {**box, "segmentation": []})
    found = objects.objects(0)
    assert found.has_mask.tolist() == [False, True, False]
    assert found.masks.is_empty().tolist() == [True, False, True]
    assert found.select(torch.tensor([False, True, True])).has_mask.tolist() == [True, False]


def test_training_boxes_end_at_the_edge_of_the_image() -> None:
    found = one_image({"bbox": [10, -5, 20, 20], "segmentation": [TRIANGLE]}).objects(0)
    assert found.boxes.tolist() == [[10, 0, 20, 15]]
    assert found.masks.dense().any(dim=1)[0].nonzero().flatten().tolist() == list(range(11, 20))
