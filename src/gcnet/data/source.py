"""From settings to images: what `--data` names, opened for training or for evaluation."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gcnet.data.cifar import CIFAR_NAMES, CifarImages
from gcnet.data.decode import ImageError
from gcnet.data.images import CachedImages, FolderImages, ImageSource, expected_tree, limit_images
from gcnet.data.settings import AugmentSettings, DataSettings, Preprocessing
from gcnet.data.table import CsvImages, has_split_column
from gcnet.errors import UserError, nearest, nearest_path

if TYPE_CHECKING:
    import gcnet.data.scenes
    import gcnet.data.transforms

DATA_NAMES = ("scenes", "scenes-control", *CIFAR_NAMES)
SCENE_SIZE = 64
SCENES_TRAIN, SCENES_VAL = 20_000, 2_000

_SMALL, _LARGE = 64, 224
_LARGE_RESIZE = 256
_TRIED_FOR_SIZE = 20


@dataclass(frozen=True)
class DataSplits:
    """Training and validation images with the preprocessing that suits both.

    Arguments:
        train: the training images.
        val: the validation images; the same classes.
        preprocessing: how images are prepared.
        classes: names of the classes, in the order of the labels.
        generated: whether the images are generated scenes, which are cropped only where `--crop` says so: a crop
            could cut the reference patch off.
    """

    train: ImageSource
    val: ImageSource
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    generated: bool = False

    def train_transform(self, augment: AugmentSettings) -> "gcnet.data.transforms.TrainTransform":
        """The transform of training images."""
        from gcnet.data.transforms import build_train_transform

        crops_by_choice = self.generated and augment.crop == "auto"
        return build_train_transform(self.preprocessing, replace(augment, crop="none") if crops_by_choice else augment)

    def eval_transform(self) -> "gcnet.data.transforms.EvalTransform":
        """The transform of validation images."""
        from gcnet.data.transforms import build_eval_transform

        return build_eval_transform(self.preprocessing)


def open_data(settings: DataSettings, seed: int = 0) -> DataSplits:
    """Open the training and the validation images.

    Arguments:
        settings: what to open; `data` is one of `DATA_NAMES`, a folder with train/ and val/, or a CSV.
        seed: of generated images; the same seed gives the same images.

    Raises:
        UserError: where nothing of that name or shape is there, or the parts do not fit together.
    """
    if settings.is_generated:
        train, val = (open_scenes(settings, seed, split) for split in ("train", "val"))
    else:
        train = _open_split(settings, "train", None)
        val = _open_split(settings, "val", train.classes)
    train, val = limit_images(train, settings.limit_train), limit_images(val, settings.limit_val)
    preprocessing = choose_preprocessing(settings, train)
    return DataSplits(CachedImages(train), CachedImages(val), preprocessing, train.classes, settings.is_generated)


def open_evaluation(
    settings: DataSettings,
    seed: int = 0,
    *,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
) -> tuple[ImageSource, Preprocessing]:
    """Open only the images to evaluate: the validation part, or all of a CSV or a folder that has no such parts.

    Arguments:
        settings: what to open.
        seed: of generated images.
        classes: the class names that a network was trained with, in its order; labels then follow them. By default
            the order is the one that `open_data` gives.
        preprocessing: what the network was trained with; by default chosen from the settings and the first images.

    Raises:
        UserError: as `open_data`, and for a class that `classes` lacks.
    """
    if settings.is_generated:
        source: ImageSource = open_scenes(settings, seed, "val")
    else:
        source = _open_split(settings, "val", classes or _training_classes(settings))
    if classes is not None and tuple(source.classes) != tuple(classes):
        raise UserError(
            f"{settings.data}: expected the classes {_shown(classes)} in this order, found {_shown(source.classes)}"
        )
    source = limit_images(source, settings.limit_val)
    return source, preprocessing or choose_preprocessing(settings, source)


def choose_preprocessing(settings: DataSettings, source: ImageSource) -> Preprocessing:
    """What the settings say, and where they say nothing: small square images as they are, others 224 from 256.

    Raises:
        UserError: where a look at the images is needed and none of the first can be read.
    """
    if settings.is_generated:
        size, resize = settings.image_size or SCENE_SIZE, settings.resize
        return Preprocessing(size, resize, settings.interpolation)
    width, height = _first_size(source)
    is_small = width == height <= _SMALL
    size = settings.image_size or (width if is_small else _LARGE)
    resize = settings.resize
    if resize is None and (width, height) != (size, size):
        resize = round(size * _LARGE_RESIZE / _LARGE)
    return Preprocessing(size, resize, settings.interpolation)


def _first_size(source: ImageSource) -> tuple[int, int]:
    tried = min(len(source), _TRIED_FOR_SIZE)
    for index in range(tried):
        try:
            return source.read(index).size
        except ImageError as error:
            last = error
    raise UserError(f"none of the first {tried} images can be read; {last}")


def open_scenes(settings: DataSettings, seed: int, split: str) -> "gcnet.data.scenes.Scenes":
    """Generated scenes of one part, "train" or "val"."""
    from gcnet.data.scenes import Scenes

    size = settings.image_size or SCENE_SIZE
    limit = settings.limit_train if split == "train" else settings.limit_val
    return Scenes(
        limit or (SCENES_TRAIN if split == "train" else SCENES_VAL),
        size=size,
        distance=size // 2 if settings.scene_distance is None else settings.scene_distance,
        context=settings.data == "scenes",
        split=split,
        seed=seed,
    )


def _open_split(settings: DataSettings, split: str, classes: Sequence[str] | None) -> ImageSource:
    if settings.data in CIFAR_NAMES:
        return CifarImages(settings.root, settings.data, train=split == "train", download=settings.download)
    path = _existing(settings.data)
    if path.is_file():
        part = split if split == "train" or has_split_column(path) else None
        return CsvImages(path, split=part, classes=classes)
    if split == "val" and not (path / "val").is_dir() and not (path / "train").is_dir():
        return FolderImages(path, classes=classes)
    return FolderImages(path / split, classes=classes)


def _training_classes(settings: DataSettings) -> tuple[str, ...] | None:
    path = Path(settings.data)
    if (path / "train").is_dir():
        return FolderImages(path / "train").classes
    if path.is_file() and has_split_column(path):
        return CsvImages(path, split="train").classes
    return None


def _existing(data: str) -> Path:
    path = Path(data)
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix.lower() != ".csv":
            raise UserError(f"--data takes a folder or a .csv file, found the file {path}")
        return path
    if os.sep in data or path.suffix:
        raise UserError(
            f'nothing at "{data}" (tried {path.resolve()}){nearest_path(path) or ";"} expected {expected_tree(data)}'
        )
    proposal = nearest(data, DATA_NAMES) or nearest_path(path) or ";"
    raise UserError(
        f'unknown data "{data}"{proposal} valid: {", ".join(DATA_NAMES)}, '
        "a folder with train/ and val/, or a CSV of path, label and split"
    )


def _shown(classes: Sequence[str]) -> str:
    return ", ".join(classes[:5]) + (f", ... ({len(classes)} in all)" if len(classes) > 5 else "")
