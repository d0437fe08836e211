"""Opens labeled images for training and evaluation, and chooses their preprocessing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gcnet.data.decode import FULL_DEPTH
from gcnet.data.images.built_in import CIFAR_NAMES, SCENE_SIZE, CifarImages, open_scenes
from gcnet.data.images.labeled import open_labeled, open_labeled_validation
from gcnet.data.images.probe import estimate_bit_depth, median_size, require_readable
from gcnet.data.images.sources import CachedImages, ImageSource, StoredImages, SubsetImages, limit_images
from gcnet.data.settings import AugmentSettings, DataSettings, Preprocessing
from gcnet.errors import UserError

if TYPE_CHECKING:
    import gcnet.data.transforms


_SMALL, _LARGE = 64, 224
_LARGE_RESIZE = 256


@dataclass(frozen=True)
class DataSplits:
    """Training and validation images with their preprocessing.

    Attributes:
        train: Training images.
        val: Validation images, of the same classes.
        preprocessing: Preprocessing of both.
        classes: Class names in the order of the labels.
        generated: Whether the images are generated scenes; these are not cropped by default, since a crop could remove
            the reference patch.
        notes: What was skipped, repaired or assumed, a sentence each.
    """

    train: ImageSource
    val: ImageSource
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    generated: bool = False
    notes: tuple[str, ...] = ()

    def train_transform(self, augment: AugmentSettings) -> "gcnet.data.transforms.TrainTransform":
        """Return the transform of training images with the augmentations `augment`."""
        from gcnet.data.transforms import build_train_transform

        if self.generated and augment.random_crop == "auto":
            augment = replace(augment, random_crop="none")
        return build_train_transform(self.preprocessing, augment)

    def eval_transform(self) -> "gcnet.data.transforms.EvalTransform":
        """Return the transform of validation images."""
        from gcnet.data.transforms import build_eval_transform

        return build_eval_transform(self.preprocessing)


def open_data(
    settings: DataSettings, seed: int = 0, *, split_seed: int = 0, preprocessing: Preprocessing | None = None
) -> DataSplits:
    """Open training and validation images.

    Args:
        settings: Data, splits, limits and preprocessing.
        seed: Seed of generated images.
        split_seed: Seed of held-out validation images.
        preprocessing: Preprocessing of the pretrained network (default: chosen from the images). `settings` take
            precedence; the bit depth is always chosen from the images.

    Returns:
        Both splits with their preprocessing.

    Raises:
        UserError: The data do not exist, the splits do not match, there is only one class, or no validation image can
            be read.
    """
    train, val = _open_both(settings, seed, split_seed)
    _require_classes(settings, train)
    notes = dict.fromkeys((*train.notes, *val.notes))
    train, val = limit_images(train, settings.limit_train), limit_images(val, settings.limit_val)
    if preprocessing is not None and not settings.is_generated:
        preprocessing = replace(preprocessing, bit_depth=_bit_depth(settings, train))
    preprocessing = choose_preprocessing(settings, train, preprocessing)
    if preprocessing.bit_depth != FULL_DEPTH:
        notes[_depth_note(settings, preprocessing.bit_depth)] = None
    train, val = (_cached(_with_depth(source, preprocessing)) for source in (train, val))
    if not settings.is_generated:
        require_readable(val, "validation")
    return DataSplits(train, val, preprocessing, train.classes, settings.is_generated, tuple(notes))


def open_evaluation(
    settings: DataSettings,
    seed: int = 0,
    *,
    split_seed: int = 0,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
) -> tuple[ImageSource, Preprocessing]:
    """Open the images to evaluate: the validation split, or all images of data without splits.

    Args:
        settings: Data, splits, limits and preprocessing.
        seed: Seed of generated images.
        split_seed: Seed of held-out validation images.
        classes: Class names of the trained network, in the order of its outputs (default: as in `open_data`).
        preprocessing: Preprocessing of the network (default: chosen from the images). `settings` take precedence.

    Returns:
        Images and preprocessing.

    Raises:
        UserError: As for `open_data`, and for a class that `classes` lacks.
    """
    if settings.is_generated:
        source: ImageSource = open_scenes(settings, seed, "val")
    elif settings.data in CIFAR_NAMES:
        source = _open_cifar(settings, "val")
    else:
        source = open_labeled_validation(settings, split_seed, classes)
    if classes is not None and tuple(source.classes) != tuple(classes):
        raise UserError(
            f"{settings.data}: expected the classes {_shown(classes)} in this order, found {_shown(source.classes)}"
        )
    source = limit_images(source, settings.limit_val)
    preprocessing = choose_preprocessing(settings, source, preprocessing)
    return _with_depth(source, preprocessing), preprocessing


def choose_preprocessing(
    settings: DataSettings, source: ImageSource, usual: Preprocessing | None = None
) -> Preprocessing:
    """Choose the preprocessing: that of the network with changes of the settings, or one that fits the images.

    By default small square images keep their size; others are resized to 256 and cropped to 224 pixels, with the mean
    and standard deviation of ImageNet. Generated images keep their size. The median size of a sample decides, see
    `gcnet.data.images.probe.median_size`.

    Args:
        settings: Preprocessing options.
        source: The images.
        usual: Preprocessing of the network.

    Returns:
        The preprocessing.

    Raises:
        UserError: The size has to be read from the images, and none can be read.
    """
    if settings.is_generated:
        size = settings.image_size or SCENE_SIZE
        if usual is None:
            usual = Preprocessing(size)
        elif usual.image_size != size:
            usual = replace(usual, image_size=size, resize=None, crop_mode="center")
    elif usual is None:
        usual = _suited(settings, source)
    return settings.preprocessing.applied(usual)


def _suited(settings: DataSettings, source: ImageSource) -> Preprocessing:
    """Return the preprocessing that fits the images, with the sizes of the settings."""
    depth = _bit_depth(settings, source)
    size, resize = settings.image_size, settings.resize
    if size is None or (resize is None and settings.crop_pct is None):
        short, long = median_size(source)
        size = size or (short if short == long <= _SMALL else _LARGE)
        if resize is None and (short, long) != (size, size):
            resize = round(size * _LARGE_RESIZE / _LARGE)
    return Preprocessing(size, resize, bit_depth=depth)


def _bit_depth(settings: DataSettings, source: ImageSource) -> int:
    """Return the used bits of 16-bit images, from the settings or a sample of the images."""
    if settings.bit_depth != "auto":
        return int(settings.bit_depth)
    return estimate_bit_depth(source) or FULL_DEPTH


def _open_both(settings: DataSettings, seed: int, split_seed: int) -> tuple[ImageSource, ImageSource]:
    if settings.is_generated:
        return open_scenes(settings, seed, "train"), open_scenes(settings, seed, "val")
    if settings.data in CIFAR_NAMES:
        return _open_cifar(settings, "train"), _open_cifar(settings, "val")
    return open_labeled(settings, split_seed)


def _cached(source: ImageSource) -> ImageSource:
    return source if source.in_memory else CachedImages(source)


def _open_cifar(settings: DataSettings, split: str) -> CifarImages:
    images = CifarImages(settings.download_dir, settings.data, train=split == "train", download=settings.download)
    images.notes = settings.built_in_notes()
    return images


def _require_classes(settings: DataSettings, train: ImageSource) -> None:
    if len(train.classes) < 2:
        raise UserError(
            f'a classifier needs at least two classes, found one in {settings.data}, "{train.classes[0]}"; in a folder '
            "of images each class has a folder"
        )


def _with_depth(source: ImageSource, preprocessing: Preprocessing) -> ImageSource:
    if preprocessing.bit_depth == FULL_DEPTH:
        return source
    if isinstance(source, SubsetImages):
        return SubsetImages(_with_depth(source.source, preprocessing), source.indices)
    return source.with_bit_depth(preprocessing.bit_depth) if isinstance(source, StoredImages) else source


def _depth_note(settings: DataSettings, depth: int) -> str:
    how = (
        "by the largest value of a sample; `bit_depth=16` keeps the full range"
        if settings.bit_depth == "auto"
        else "as given"
    )
    return f"16-bit images are read as {depth}-bit: values from 0 to {(1 << depth) - 1:,} ({how})"


def _shown(classes: Sequence[str]) -> str:
    return ", ".join(classes[:5]) + (f", ... ({len(classes)} in all)" if len(classes) > 5 else "")
