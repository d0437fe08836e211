"""Data settings: images, preprocessing, augmentation; imports neither torch nor numpy."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from gcnet.errors import UserError, nearest, unknown
from gcnet.renamed import OLD_VALUES

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LARGEST_SIDE = 10_000  # pixels; a square image of this side has the 100 megapixels that are decoded at most
MOST_WORKERS = 256  # each is a process with a copy of the program: thousands take all memory of a machine

BUILT_IN = ("scenes", "scenes-control", "cifar10", "cifar100")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
CropMode = Literal["center", "squash"]
BitDepth = Literal["auto", "8", "10", "12", "14", "16"]

_CHOICES: Mapping[str, tuple[str, ...]] = {"interpolation": INTERPOLATIONS, "crop_mode": ("center", "squash")}
_BIT_DEPTHS = ("auto", "8", "10", "12", "14", "16")


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UserError(sentence)


def check_workers(workers: int, least: int = 0) -> None:
    """Check a number of data-loader workers.

    Args:
        workers: Number of worker processes.
        least: Minimum.

    Raises:
        UserError: The number is below `least` or above 256.
    """
    found = f"found {workers}"
    _require(workers >= least, f"`workers` must be {least} or more, {found}")
    _require(workers <= MOST_WORKERS, f"`workers` must be at most {MOST_WORKERS}, {found}")


@dataclass(frozen=True)
class PreprocessingSettings:
    """Preprocessing options that override the preprocessing of the network."""

    image_size: int | None = None
    """Side in pixels of the square that the network gets (default: the model file's or the network's own)."""
    resize: int | None = None
    """Short side in pixels to which images are resized before the center crop (default: as for `image_size`)."""
    crop_pct: float | None = None
    """Share of the short side that the center crop keeps, such as 0.875; instead of `resize`."""
    interpolation: Interpolation | None = None
    """Interpolation of resizing, always antialiased (default: as for `image_size`)."""
    mean: tuple[float, float, float] | None = None
    """Mean of red, green and blue, of values from 0 to 1, that is subtracted (default: as for `image_size`)."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of red, green and blue that is divided by (default: as for `image_size`)."""
    crop_mode: CropMode | None = None
    """center resizes the short side, squash both sides, before the center crop (default: as for `image_size`)."""
    bit_depth: BitDepth = "auto"
    """Bits in use of 16-bit images (auto: as in training)."""

    def __post_init__(self) -> None:
        """Check values that do not depend on the network."""
        for name in ("image_size", "resize"):
            value = getattr(self, name)
            _check_side(f"`{name}`", value)
        _require(
            self.crop_pct is None or 0.01 <= self.crop_pct <= 1,
            f"`crop_pct` is a share of the short side, from 0.01 to 1; found {self.crop_pct}",
        )
        _require(
            self.crop_pct is None or self.resize is None,
            "`crop_pct` and `resize` both set the short side before the crop; give one of them",
        )
        for name, valid in _CHOICES.items():
            if getattr(self, name) not in (None, *valid):
                raise unknown(f"`{name}`", getattr(self, name), valid)
        if self.bit_depth not in _BIT_DEPTHS:
            raise unknown("`bit_depth`", self.bit_depth, _BIT_DEPTHS)
        _check_resize(self.resize, self.image_size)
        for name in ("mean", "std"):
            _check_channels(f"`{name}`", getattr(self, name))

    def given(self) -> list[str]:
        """Return the options that differ from their defaults, with their values."""
        values = ((item.name, getattr(self, item.name)) for item in fields(self))
        return [f"`{name}={_flag_value(value)}`" for name, value in values if value not in (None, "auto")]

    def for_data(self, size: int | None) -> dict[str, Any]:
        """Return the options as arguments of `DataSettings`, with `size` as the default image size."""
        return asdict(self) | {"image_size": self.image_size or size}

    def applied(self, usual: "Preprocessing") -> "Preprocessing":
        """Return the preprocessing `usual` with these options applied.

        An image size without other options keeps the fraction of the image in the center crop.

        Raises:
            UserError: The short side before the crop is below the image size.
        """
        size, resize = self.image_size or usual.image_size, self.resize
        if self.crop_pct is not None:
            resize = math.floor(size / self.crop_pct)  # as timm's crop_pct
        elif resize is None and usual.resize is not None:
            resize = round(size * usual.resize / usual.image_size)
        return replace(
            usual,
            image_size=size,
            resize=None if resize == size else resize,
            interpolation=self.interpolation or usual.interpolation,
            mean=self.mean or usual.mean,
            std=self.std or usual.std,
            crop_mode=self.crop_mode or usual.crop_mode,
            bit_depth=usual.bit_depth if self.bit_depth == "auto" else int(self.bit_depth),
        )

    @classmethod
    def like(cls, preprocessing: "Preprocessing") -> "PreprocessingSettings":
        """Return options that give the preprocessing `preprocessing` for any network."""
        values: dict[str, Any] = {
            item.name: getattr(preprocessing, item.name) for item in fields(cls) if item.name != "crop_pct"
        }
        values["resize"] = preprocessing.resize or preprocessing.image_size
        values["bit_depth"] = str(preprocessing.bit_depth)
        return cls(**values)


@dataclass(frozen=True)
class DataSettings:
    """Data, splits, preprocessing and loading of images."""

    data: str = "scenes"
    """scenes or scenes-control (generated), cifar10, cifar100, a folder with train/ and val/, or a CSV table; for
    detectors scenes, scenes-control, a folder of images with COCO annotations, or an annotation file (JSON)."""
    val: str | None = None
    """Validation data, where `data` holds training data only: a folder, a CSV or an annotation file (JSON)."""
    images: str | None = None
    """Folder of the images of a CSV or an annotation file (default: found beside it)."""
    val_fraction: float | None = None
    """Share of `data` that is held out for validation, such as 0.2, chosen by `seed` (classifiers: of every class)."""
    download_dir: str = "data"
    """Folder of downloaded data sets (cifar10, cifar100)."""
    download: bool = False
    """Fetch cifar10 or cifar100 where they are missing; without it the network is never used."""
    image_size: int | None = None
    """Input resolution in pixels (default: with `weights` the network's own; else native size up to 64, otherwise
    224)."""
    resize: int | None = None
    """Evaluation: short side in pixels before the center crop (default: with `weights` the network's own; else 256/224
    of the image size, none if it fits)."""
    crop_pct: float | None = None
    """Evaluation: share of the short side that the center crop keeps, such as 0.875; instead of `resize`."""
    interpolation: Interpolation | None = None
    """Interpolation of resizing, always antialiased (default: with `weights` the network's own, else bilinear)."""
    mean: tuple[float, float, float] | None = None
    """Mean of red, green and blue, of values from 0 to 1, that is subtracted (default: with `weights` the network's
    own, else ImageNet's)."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of red, green and blue that is divided by (default: as for `mean`)."""
    crop_mode: CropMode | None = None
    """Evaluation: center resizes the short side, squash both sides, before the center crop (default: with `weights` the
    network's own, else center)."""
    bit_depth: BitDepth = "auto"
    """Classifiers: bits in use of 16-bit images (auto: from the largest value of a sample, the same for all images)."""
    limit_train: int | None = None
    """Use only so many training images, evenly spread over the set (scenes: generate so many)."""
    limit_val: int | None = None
    """Use only so many validation images, evenly spread over the set (scenes: generate so many)."""
    scene_distance: int | None = None
    """Scenes: pixels between the reference patch and the nearest shape (default: half the image size)."""
    workers: int = 0
    """DataLoader workers per process (0: main process); batches are bit-identical for any number."""

    def __post_init__(self) -> None:
        """Check values that do not depend on the images; `~` becomes the home folder."""
        for name in ("data", "val", "images"):
            if (path := getattr(self, name)) is not None:
                _check_path(f"`{name}`", path)
                object.__setattr__(self, name, os.path.expanduser(path))
        self._check_validation()
        _ = self.preprocessing  # which checks its part
        for name in ("limit_train", "limit_val"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"`{name}` must be positive, found {value}")
        check_workers(self.workers)
        _require(
            self.scene_distance is None or self.is_generated,
            f"`scene_distance` belongs to `data` scenes or scenes-control, found `data={self.data}`",
        )
        _require(
            not self.download or self.data in ("cifar10", "cifar100"),
            f"`download` belongs to `data` cifar10 or cifar100, found `data={self.data}`",
        )

    def _check_validation(self) -> None:
        fraction = self.val_fraction
        _require(
            fraction is None or 0 < fraction < 1,
            f"`val_fraction` is a share between 0 and 1, such as 0.2; found {fraction}",
        )
        _require(
            self.val is None or fraction is None,
            "`val` names validation data and `val_fraction` splits it off `data`; give one of them",
        )
        for name in ("val", "images", "val_fraction"):
            _require(
                getattr(self, name) is None or self.data not in BUILT_IN,
                f"`{name}` belongs to data of your own, and `data={self.data}` has its own splits",
            )

    @property
    def preprocessing(self) -> PreprocessingSettings:
        """Preprocessing options."""
        return PreprocessingSettings(**{item.name: getattr(self, item.name) for item in fields(PreprocessingSettings)})

    @property
    def is_generated(self) -> bool:
        """Whether the images are generated."""
        return self.data in ("scenes", "scenes-control")


@dataclass(frozen=True)
class AugmentSettings:
    """Random augmentations of training images."""

    random_crop: Literal["auto", "resized", "pad", "none"] = "auto"
    """resized: a random part; pad: shifted by up to `pad` pixels; auto: pad for small images, none for scenes."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that a resized crop takes, from and to."""
    pad: int = 4
    """Pixels of black border around the image before a crop of its own size (`random_crop` pad)."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    auto_augment: Literal["none", "randaugment", "trivialaugment"] = "none"
    """RandAugment or TrivialAugment."""
    ra_magnitude: int = 9
    """Magnitude of RandAugment, 0 to 30."""
    color_jitter: float = 0.0
    """Random change of brightness, contrast and saturation by up to this factor."""
    erasing: float = 0.0
    """Probability of erasing a random rectangle."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, valid in (
            ("random_crop", ("auto", "resized", "pad", "none")),
            ("auto_augment", ("none", "randaugment", "trivialaugment")),
        ):
            if getattr(self, name) not in valid:
                raise unknown(name.replace("_", "-"), getattr(self, name), valid, synonyms=OLD_VALUES)
        low, high = self.crop_scale
        _require(0 < low <= high <= 1, f"`crop_scale` must be two shares with 0 < from <= to <= 1, found {low} {high}")
        _require(self.pad >= 0, f"`pad` must be 0 or more, found {self.pad}")
        _require(0 <= self.ra_magnitude <= 30, f"`ra_magnitude` must be 0 to 30, found {self.ra_magnitude}")
        _require(0 <= self.color_jitter <= 1, f"`color_jitter` must be 0 to 1, found {self.color_jitter}")
        for name in ("hflip", "erasing"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"`{name}` is a probability from 0 to 1, found {value}")


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of images: resize the short side, center crop, scale to [0, 1], normalize.

    Attributes:
        image_size: Side of the square crop, in pixels.
        resize: Short side before the crop, in pixels. None stands for `image_size`; square images of that size are then
            not resampled.
        interpolation: A name of `INTERPOLATIONS`, antialiased.
        mean: Mean of each channel, subtracted after scaling to [0, 1].
        std: Standard deviation of each channel, by which it is divided.
        bit_depth: Used bits of 16-bit images, of which the upper 8 are kept.
        crop_mode: "center", or "squash" to resize both sides to `resize` without keeping the aspect ratio, as in timm.
    """

    image_size: int
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    bit_depth: int = 16
    crop_mode: CropMode = "center"

    def __post_init__(self) -> None:
        """Check types and ranges."""
        for name in ("image_size", "resize"):
            value = getattr(self, name)
            is_size = isinstance(value, int) and not isinstance(value, bool) and value > 0
            _require(is_size or (name == "resize" and value is None), f"{name} must be positive, found {value!r}")
            _check_side(name, value)
        is_depth = type(self.bit_depth) is int and 8 <= self.bit_depth <= 16
        _require(is_depth, f"bit_depth must be 8 to 16, found {self.bit_depth!r}")
        for name, valid in _CHOICES.items():
            if getattr(self, name) not in valid:
                raise unknown(name, str(getattr(self, name)), valid)
        _check_resize(self.resize, self.image_size)
        for name in ("mean", "std"):
            _require(getattr(self, name) is not None, f"{name} must be three numbers, found None")
            _check_channels(name, getattr(self, name))

    def __str__(self) -> str:
        sides = "both sides" if self.crop_mode == "squash" else "short side"
        resized = f"{sides} resized to {self.resize or self.image_size} ({self.interpolation}), " if self.resize else ""
        mean, std = (" ".join(f"{value:g}" for value in channels) for channels in (self.mean, self.std))
        return f"{resized}{self.image_size} x {self.image_size} pixels, mean {mean}, std {std}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Preprocessing":
        """Return the preprocessing stored by `to_dict`.

        Args:
            stored: JSON values.

        Raises:
            UserError: image_size is missing, or a name is unknown.
        """
        valid = [item.name for item in fields(cls)]
        for name in stored:
            if name not in valid:
                raise UserError(f'preprocessing: unknown entry "{name}"{nearest(name, valid)}')
        _require("image_size" in stored, "preprocessing: the entry image_size is missing")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
        return cls(**values)


def _check_path(flag: str, path: str) -> None:
    _require(bool(path), f"{flag} must name the images, found an empty string")
    _require(
        not _URL.match(path),
        f"{flag} takes a path on this machine; URLs are not supported, so copy the data here first, found {path}",
    )


def _check_channels(name: str, values: tuple[float, ...] | None) -> None:
    """Check that a mean or standard deviation has three finite numbers, and that the latter are positive."""
    if values is None:
        return
    lowest = 0.0 if name.endswith("std") else -math.inf
    numbers = isinstance(values, tuple) and len(values) == 3 and all(type(value) in (int, float) for value in values)
    _require(
        numbers and all(lowest < value < math.inf for value in values),
        f"{name} must be three {'positive ' if lowest == 0 else ''}numbers, found {_flag_value(values)}",
    )


def _flag_value(value: object) -> str:
    """Return a value as written on the command line."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _check_side(name: str, value: int | None) -> None:
    if value is not None:
        _require(value > 0, f"{name} must be positive, found {value}")
        _require(value <= LARGEST_SIDE, f"{name} must be at most {LARGEST_SIDE:,} pixels, found {value}")


def _check_resize(resize: int | None, image_size: int | None) -> None:
    _require(
        resize is None or image_size is None or resize >= image_size,
        f"resize (the short side before the crop) must be at least the image size of {image_size}, found {resize}",
    )
