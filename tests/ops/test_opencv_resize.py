"""Resizing against OpenCV itself and against exact integers computed by a loop."""

import math
import random

import numpy as np
import pytest
import torch

from gcnet.ops import opencv_resize
from gcnet.ops.opencv_resize import resize_batch_of_any_size, resize_bilinear, resize_fixed_point


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def by_opencv(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    cv2 = pytest.importorskip("cv2")
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(resized.reshape(height, width, len(image))).permute(2, 0, 1)


def weights(old: int, new: int, position: int) -> tuple[int, int, np.float32]:
    place = np.float32((position + 0.5) * (old / new) - 0.5)
    first = math.floor(place)
    return first, min(first + 1, old - 1), place - np.float32(first)


def by_loop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """One channel, in Python integers, by the formulas of OpenCV's resize.cpp."""
    result = np.zeros((height, width), dtype=np.uint8)
    for y in range(height):
        top, bottom, down = weights(image.shape[0], height, y)
        for x in range(width):
            left, right, across = weights(image.shape[1], width, x)
            if left < 0 or left >= image.shape[1] - 1:
                across = np.float32(0)
            sums = []
            for row in (max(top, 0), bottom):
                line = [int(level) for level in image[row]]
                share = round(float((np.float32(1) - across) * np.float32(2048)))
                sums.append(line[max(left, 0)] * share + line[right] * round(float(across * np.float32(2048))))
            shares = round(float((np.float32(1) - down) * np.float32(2048))), round(float(down * np.float32(2048)))
            parts = [share * (line >> 4) >> 16 for share, line in zip(shares, sums, strict=True)]
            result[y, x] = sum(parts) + 2 >> 2
    return result


@pytest.mark.parametrize("size", [(3, 5), (13, 17), (7, 40), (26, 22), (1, 1)])
def test_resizing_equals_the_formulas_of_opencv(size: tuple[int, int]) -> None:
    image = noise(1, 13, 11)
    assert np.array_equal(resize_fixed_point(image, *size)[0].numpy(), by_loop(image[0].numpy(), *size))


@pytest.mark.parametrize("size", [(3, 5), (13, 17), (7, 40), (26, 22), (1, 1)])
def test_resizing_to_a_size_in_tensors_is_the_same(size: tuple[int, int]) -> None:
    image = noise(3, 13, 11)
    ratios = [torch.tensor(old / new, dtype=torch.float64) for old, new in zip((13, 11), size, strict=True)]
    found = resize_batch_of_any_size(image[None].float(), (ratios[0], ratios[1]), (size[0] + 2, size[1] + 3))[0]
    expected = resize_fixed_point(image, *size).float()
    assert torch.equal(found[:, : size[0], : size[1]], expected)


def test_resizing_equals_opencv_for_many_sizes() -> None:
    generator = random.Random(0)
    for _ in range(120):
        sides = [generator.choice((generator.randint(1, 9), generator.randint(1, 300))) for _ in range(4)]
        image = noise(3, *sides[:2])
        expected = by_opencv(image, *sides[2:])
        assert torch.equal(resize_fixed_point(image, *sides[2:]), expected), sides
        assert torch.equal(resize_bilinear(image, *sides[2:]), expected), sides


def test_a_photo_sized_image_equals_opencv() -> None:
    image = noise(3, 480, 640)
    assert torch.equal(resize_fixed_point(image, 800, 1067), by_opencv(image, 800, 1067))


@pytest.mark.parametrize("layout", ["transposed", "cropped"])
def test_the_memory_layout_of_the_image_does_not_matter(layout: str) -> None:
    views = {"transposed": noise(30, 40, 3).permute(2, 0, 1), "cropped": noise(3, 50, 60)[:, 7:37, 5:45]}
    image = views[layout]
    before = image.clone()
    assert torch.equal(resize_bilinear(image, 17, 71), by_opencv(image, 17, 71))
    assert torch.equal(resize_fixed_point(image, 17, 71), by_opencv(image, 17, 71))
    assert torch.equal(image, before)


def test_an_opencv_that_computes_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2")
    original = cv2.resize

    def one_level_brighter(*arguments: object, dst: np.ndarray, **options: object) -> None:
        original(*arguments, dst=dst, **options)
        dst += 1

    image = noise(3, 20, 30)
    expected = by_opencv(image, 31, 47)
    opencv_resize._opencv.cache_clear()
    monkeypatch.setattr(cv2, "resize", one_level_brighter)
    try:
        assert opencv_resize._opencv() is None
        assert torch.equal(resize_bilinear(image, 31, 47), expected)
    finally:
        opencv_resize._opencv.cache_clear()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_resizing_on_a_gpu_equals_the_cpu() -> None:
    image = noise(3, 123, 211)
    assert torch.equal(resize_fixed_point(image.cuda(), 200, 333).cpu(), resize_fixed_point(image, 200, 333))


def test_on_the_meta_device_the_result_has_its_shape() -> None:
    assert resize_bilinear(torch.empty(3, 7, 9, dtype=torch.uint8, device="meta"), 11, 5).shape == (3, 11, 5)
