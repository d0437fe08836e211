import pickle
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.functional import to_tensor
from torchvision.transforms.v2 import functional as reference

from gcnet.data.settings import IMAGENET_MEAN, IMAGENET_STD, AugmentSettings, Preprocessing
from gcnet.data.transforms import build_eval_transform, build_train_transform, crop_region

SIZES = [(211, 97), (97, 211), (101, 101), (37, 37), (37, 53), (5, 3), (1, 1), (64, 61)]
QUIET = {"random_crop": "none", "hflip": 0.0}


def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def by_torchvision(image: Image.Image, size: int, resize: int, interpolation: str) -> torch.Tensor:
    image = reference.resize(image, [resize], InterpolationMode(interpolation), antialias=True)
    pixels = to_tensor(reference.center_crop(image, [size, size]))
    return reference.normalize(pixels, list(IMAGENET_MEAN), list(IMAGENET_STD))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("size", "resize"), [(37, None), (37, 41), (64, 73)])
def test_evaluation_equals_torchvision_to_the_bit(interpolation: str, size: int, resize: int | None) -> None:
    transform = build_eval_transform(Preprocessing(size, resize, interpolation))
    for shape in SIZES:
        expected = by_torchvision(photo(*shape), size, resize or size, interpolation)
        found = transform(photo(*shape))
        assert found.dtype == torch.float32 and found.is_contiguous()
        assert torch.equal(found, expected), shape


def test_a_square_image_of_the_right_size_is_not_resampled() -> None:
    pixels = build_eval_transform(Preprocessing(32, mean=(0, 0, 0), std=(1, 1, 1)))(photo(32, 32))
    assert np.array_equal((pixels * 255).round().permute(1, 2, 0).numpy(), np.asarray(photo(32, 32)))


def test_mean_and_std_are_applied_to_each_channel() -> None:
    image = Image.new("RGB", (3, 3), (0, 51, 255))
    pixels = build_eval_transform(Preprocessing(3, mean=(0.5, 0.1, 0.0), std=(0.5, 0.2, 4.0)))(image)
    assert pixels[:, 1, 1].tolist() == pytest.approx([-1.0, 0.5, 0.25])


@hypothesis_settings(max_examples=40)
@given(width=st.integers(1, 97), height=st.integers(1, 97), long=st.sampled_from([1, 1, 61]), size=st.integers(1, 41))
def test_any_image_gives_the_shape_asked_for_in_evaluation_and_training(
    width: int, height: int, long: int, size: int
) -> None:
    image = photo(width * long, height)
    for preprocessing in (Preprocessing(size), Preprocessing(size, size + 3)):
        assert build_eval_transform(preprocessing)(image).shape == (3, size, size)
        for crop in ("resized", "pad", "none"):
            settings = AugmentSettings(random_crop=crop, erasing=0.5)
            assert build_train_transform(preprocessing, settings)(image).shape == (3, size, size)


@pytest.mark.parametrize("size", [(9000, 1), (1, 9000)])
def test_a_line_of_pixels_is_cut_before_it_is_resized_to_millions(size: tuple[int, int]) -> None:
    assert build_eval_transform(Preprocessing(224, 256))(photo(*size)).shape == (3, 224, 224)


@pytest.mark.parametrize("size", [(640, 427), (100, 300), (83, 83), (2000, 10)])
@pytest.mark.parametrize("sizes", [(64, None, "center"), (64, 73, "center"), (37, 41, "squash")])
def test_the_crop_region_is_the_part_of_the_image_that_evaluation_sees(
    size: tuple[int, int], sizes: tuple[int, int | None, str]
) -> None:
    preprocessing = Preprocessing(sizes[0], sizes[1], crop_mode=sizes[2], mean=(0, 0, 0), std=(1, 1, 1))
    x, y = np.meshgrid((np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1])
    ramps = Image.fromarray((np.stack([x, y, 0 * x], -1) * 255).round().astype(np.uint8))
    seen = build_eval_transform(preprocessing)(ramps)
    left, top, right, bottom = crop_region(size, preprocessing)
    step = (np.arange(sizes[0]) + 0.5) / sizes[0]
    within = 0.02 + 1 / min(size)  # antialiasing is one-sided at the edges
    assert seen[0].mean(0).numpy() == pytest.approx(left + step * (right - left), abs=within)
    assert seen[1].mean(1).numpy() == pytest.approx(top + step * (bottom - top), abs=within)


def test_training_without_augmentation_equals_evaluation() -> None:
    preprocessing = Preprocessing(37, 41, "bicubic")
    plain = build_train_transform(preprocessing, AugmentSettings(**QUIET))
    assert torch.equal(plain(photo(53, 61)), build_eval_transform(preprocessing)(photo(53, 61)))


def test_the_automatic_crop_pads_small_images_and_resizes_others() -> None:
    for preprocessing, crop in (
        (Preprocessing(32), "pad"),
        (Preprocessing(64, 73), "resized"),
        (Preprocessing(65), "resized"),
    ):
        assert build_train_transform(preprocessing, AugmentSettings()).crop == crop


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_training_equals_transforms_of_torchvision_with_the_same_seed(interpolation: str) -> None:
    settings = AugmentSettings(random_crop="resized", color_jitter=0.3, erasing=0.5)
    transform = build_train_transform(Preprocessing(31, interpolation=interpolation), settings)
    mode = InterpolationMode(interpolation)
    crop = v2.RandomResizedCrop(31, interpolation=mode, antialias=True)
    jitter, erasing = v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3), v2.RandomErasing(p=0.5)
    for seed in range(20):
        torch.manual_seed(seed)
        found = transform(photo(53, 61))
        torch.manual_seed(seed)
        image = crop(photo(53, 61))
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(()).item() < 0.5 else image
        pixels = reference.normalize(to_tensor(jitter(image)), list(IMAGENET_MEAN), list(IMAGENET_STD))
        assert torch.equal(found, erasing(pixels))


def test_a_crop_of_the_size_of_the_network_is_not_resampled() -> None:
    transform = build_train_transform(Preprocessing(37), AugmentSettings(random_crop="resized", crop_scale=(1, 1)))
    image, square = photo(37, 37), build_eval_transform(Preprocessing(37))
    results = [transform(image) for _ in range(9)]  # square crops of the whole image, and crops of other shapes
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert any(torch.equal(result, square(whole)) for result in results for whole in (image, mirrored))


def test_padded_crops_are_all_possible_shifts() -> None:
    image = photo(5, 5)
    transform = build_train_transform(
        Preprocessing(5, mean=(0, 0, 0), std=(1, 1, 1)), AugmentSettings(random_crop="pad", pad=2, hflip=0)
    )
    bordered = np.pad(np.asarray(image), ((2, 2), (2, 2), (0, 0)))
    shifts = {bordered[y : y + 5, x : x + 5].tobytes(): (y, x) for y in range(5) for x in range(5)}
    seen = set()
    for _ in range(300):
        pixels = (transform(image) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        seen.add(shifts[pixels.tobytes()])
    assert len(seen) == 25


@pytest.mark.parametrize(("flip", "share"), [(0.0, 0.0), (1.0, 1.0), (0.3, 0.3)])
def test_flips_occur_as_often_as_asked(flip: float, share: float) -> None:
    image = photo(7, 7)
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    plain = build_eval_transform(Preprocessing(7))
    transform = build_train_transform(Preprocessing(7), AugmentSettings(random_crop="none", hflip=flip))
    results = [transform(image) for _ in range(400)]
    flipped = [torch.equal(pixels, plain(mirrored)) for pixels in results]
    assert all(
        is_flipped or torch.equal(pixels, plain(image)) for is_flipped, pixels in zip(flipped, results, strict=True)
    )
    assert sum(flipped) / 400 == pytest.approx(share, abs=0.08)  # 3.5 standard deviations


def test_a_resized_crop_takes_the_share_of_the_area_asked_for() -> None:
    ramp = np.zeros((101, 101, 3), np.uint8)
    ramp[..., 0] = np.arange(101)[:, None] * 2
    ramp[..., 1] = np.arange(101)[None, :] * 2
    settings = AugmentSettings(random_crop="resized", crop_scale=(0.25, 0.36), hflip=0)
    transform = build_train_transform(Preprocessing(29, mean=(0, 0, 0), std=(1, 1, 1)), settings)
    for _ in range(50):
        pixels = transform(Image.fromarray(ramp)) * 255 / 2
        height, width = ((pixels[c].max() - pixels[c].min()).item() * 29 / 28 / 101 for c in (0, 1))
        assert 0.25 * 0.85 < height * width < 0.36 * 1.15


CHANGES: dict[str, dict[str, object]] = {
    "randaugment": {"auto_augment": "randaugment"},
    "strong randaugment": {"auto_augment": "randaugment", "ra_magnitude": 20},
    "trivial": {"auto_augment": "trivialaugment"},
    "color": {"color_jitter": 0.4},
    "erasing": {"erasing": 1.0},
}


@pytest.mark.parametrize("case", CHANGES)
def test_each_augmentation_changes_the_image_and_follows_torchs_seed_alone(case: str) -> None:
    transform = build_train_transform(Preprocessing(31), AugmentSettings(**QUIET, **CHANGES[case]))
    image = photo(31, 31)

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.stack([transform(image) for _ in range(7)])

    first = draw(1)
    random.seed(99)
    np.random.seed(99)
    assert torch.equal(first, draw(1))
    assert not torch.equal(first, draw(2))
    assert not all(torch.equal(pixels, build_eval_transform(Preprocessing(31))(image)) for pixels in first)


def test_a_greater_magnitude_changes_more() -> None:
    def change(magnitude: int) -> float:
        torch.manual_seed(5)
        settings = AugmentSettings(**QUIET, auto_augment="randaugment", ra_magnitude=magnitude)
        transform = build_train_transform(Preprocessing(31), settings)
        plain = build_eval_transform(Preprocessing(31))(photo(31, 31))
        return sum((transform(photo(31, 31)) - plain).abs().mean().item() for _ in range(60))

    assert change(28) > change(2)


@pytest.mark.parametrize(
    "build", [build_eval_transform, lambda p: build_train_transform(p, AugmentSettings(erasing=0.5))]
)
def test_transforms_can_be_pickled_and_have_a_repr(build: Callable[[Preprocessing], object]) -> None:
    transform = pickle.loads(pickle.dumps(build(Preprocessing(13))))
    assert transform(photo(29, 17)).shape == (3, 13, 13)
    assert "image_size=13" in repr(transform)
