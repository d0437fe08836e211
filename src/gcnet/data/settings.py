"""Data settings: images, preprocessing, augmentation; imports neither torch nor numpy."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import PurePath
from typing import Any, Literal

from gcnet.arguments import advanced, check_choices
from gcnet.errors import UserError, nearest
from gcnet.remote_files import check_without_secret
from gcnet.renamed import OLD_VALUES

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LARGEST_SIDE = 10_000  # pixels; a square image of this side has the 100 megapixels that are decoded at most
MOST_WORKERS = 256  # each is a process with a copy of the program: thousands take all memory of a machine

BUILT_IN = ("scenes", "scenes-control", "cifar10", "cifar100")
_PATTERN = re.compile(r"[*?\[{]")

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
CropMode = Literal["center", "squash"]
BitDepth = Literal["auto", "8", "10", "12", "14", "16"]


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UserError(sentence)


def is_pattern(path: str) -> bool:
    """Return whether `path` has wildcards or braces, as shards/{train,val}-*.tar, and is no file of this name."""
    return _PATTERN.search(path) is not None and not os.path.exists(path)


def check_workers(workers: int | None, least: int = 0) -> None:
    """Check a number of data-loader workers.

    Args:
        workers: Number of worker processes; None is always valid.
        least: Minimum.

    Raises:
        UserError: The number is below `least` or above 256.
    """
    if workers is None:
        return
    found = f"found {workers}"
    _require(workers >= least, f"`workers` must be {least} or more, {found}")
    _require(workers <= MOST_WORKERS, f"`workers` must be at most {MOST_WORKERS}, {found}")


@dataclass(frozen=True)
class PreprocessingSettings:
    """Preprocessing."""

    image_size: int | None = None
    """Input resolution in pixels (default: as stored with the model, or the model's own)."""
    resize: int | None = advanced(None)
    """Size of the short side before the center crop, in pixels (default: as for `image_size`)."""
    crop_pct: float | None = advanced(None)
    """Fraction of the short side kept by the center crop, such as 0.875; instead of `resize`."""
    interpolation: Interpolation | None = advanced(None)
    """Interpolation for resizing, with antialiasing (default: as for `image_size`)."""
    mean: tuple[float, float, float] | None = advanced(None)
    """Mean of the RGB channels, for values in [0, 1] (default: as for `image_size`)."""
    std: tuple[float, float, float] | None = advanced(None)
    """Standard deviation of the RGB channels (default: as for `image_size`)."""
    crop_mode: CropMode | None = advanced(None)
    """Resize the short side (center) or both sides (squash) before the center crop (default: as for
    `image_size`)."""
    bit_depth: BitDepth = advanced("auto")
    """Used bits of 16-bit images; auto takes the value from training."""

    def __post_init__(self) -> None:
        """Check values that do not depend on the network."""
        for name in ("image_size", "resize"):
            value = getattr(self, name)
            _check_side(f"`{name}`", value)
        _require(
            self.crop_pct is None or 0.01 <= self.crop_pct <= 1,
            f"`crop_pct` must be a fraction of the short side, from 0.01 to 1; found {self.crop_pct}",
        )
        _require(
            self.crop_pct is None or self.resize is None,
            "`crop_pct` and `resize` both set the short side before the crop; give one of them",
        )
        check_choices(self)
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
    """Data."""

    data: str = "scenes"
    """scenes or scenes-control (generated), cifar10, cifar100, a folder with train/ and val/, a CSV, or shards such as
    "shards/{train,val}-*.tar". Detectors: scenes, scenes-control, a folder with COCO annotations, or an annotation
    file. Also at a URL such as s3://bucket/photos. For a folder named like a built-in data set, write ./scenes."""
    val: str | None = None
    """Validation data, if `data` holds training data only: a folder, CSV, shards or annotation file."""
    images: str | None = advanced(None)
    """Image folder of a CSV or annotation file, also at a URL (default: next to it)."""
    val_fraction: float | None = advanced(None)
    """Fraction of `data` to hold out for validation, such as 0.2; for classifiers stratified by class."""
    download_dir: str = advanced("data")
    """Folder of downloaded data sets (cifar10, cifar100)."""
    download: bool = False
    """Download cifar10, cifar100, a model on the Hub or published weights; nothing is downloaded otherwise."""
    image_size: int | None = None
    """Input resolution in pixels (default: the model's with `weights`; else native size up to 64, otherwise
    224)."""
    resize: int | None = advanced(None)
    """Size of the short side before the center crop in evaluation, in pixels (default: the model's with
    `weights`, else `image_size` * 256/224, or none if the images fit)."""
    crop_pct: float | None = advanced(None)
    """Fraction of the short side kept by the center crop in evaluation, such as 0.875; instead of `resize`."""
    interpolation: Interpolation | None = advanced(None)
    """Interpolation for resizing, with antialiasing (default: the model's with `weights`, else bilinear)."""
    mean: tuple[float, float, float] | None = advanced(None)
    """Mean of the RGB channels, for values in [0, 1] (default: the model's with `weights`, else ImageNet's)."""
    std: tuple[float, float, float] | None = advanced(None)
    """Standard deviation of the RGB channels (default: as for `mean`)."""
    crop_mode: CropMode | None = advanced(None)
    """In evaluation, resize the short side (center) or both sides (squash) before the center crop (default: the
    model's with `weights`, else center)."""
    bit_depth: BitDepth = advanced("auto")
    """Used bits of 16-bit images; auto measures a sample of images."""
    limit_train: int | None = advanced(None)
    """Maximum number of training images, evenly spread; for scenes the number to generate."""
    limit_val: int | None = advanced(None)
    """Maximum number of validation images, evenly spread; for scenes the number to generate."""
    scene_distance: int | None = advanced(None)
    """Generated scenes: pixels between the reference patch and the nearest shape (default: half of
    `image_size`)."""
    workers: int | None = None
    """DataLoader workers of each process; batches are bit-identical for any number (default: on a GPU the CPU cores per
    process, at most 8, and 0 on a CPU or for images in memory)."""

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
            f"`scene_distance` requires `data` scenes or scenes-control, found `data={self.data}`",
        )

    def _check_validation(self) -> None:
        fraction = self.val_fraction
        _require(
            fraction is None or 0 < fraction < 1,
            f"`val_fraction` must be a fraction between 0 and 1, such as 0.2; found {fraction}",
        )
        _require(
            self.val is None or fraction is None,
            "`val` names validation data and `val_fraction` splits it off `data`; give one of them",
        )
        for name in ("val", "images", "val_fraction"):
            _require(
                getattr(self, name) is None or not self.is_built_in,
                f"`{name}` requires your own data, and `data={self.data}` has its own splits",
            )

    @property
    def preprocessing(self) -> PreprocessingSettings:
        """Preprocessing options."""
        return PreprocessingSettings(**{item.name: getattr(self, item.name) for item in fields(PreprocessingSettings)})

    @property
    def is_built_in(self) -> bool:
        """Whether `data` is the name of a built-in data set, also if a folder has this name."""
        return self.data in BUILT_IN

    @property
    def name(self) -> str:
        """Name of the file or folder of the data; for a pattern of shards, the folder of the shards."""
        parts = PurePath(self.data).parts
        literal = [part for part in parts if not _PATTERN.search(part)]
        return literal[-1] if 0 < len(literal) < len(parts) else PurePath(self.data).name

    def built_in_notes(self) -> tuple[str, ...]:
        """Return a note if `data` is a built-in data set and the current directory has a folder of its name."""
        if not self.is_built_in or not os.path.exists(self.data):
            return ()
        return (f"`data={self.data}` is the built-in data set; `data=./{self.data}` is the folder of this name",)

    @property
    def is_generated(self) -> bool:
        """Whether the images are generated."""
        return self.data in ("scenes", "scenes-control")


@dataclass(frozen=True)
class AugmentSettings:
    """Augmentation."""

    random_crop: Literal["auto", "resized", "pad", "none"] = advanced("auto")
    """Random crop: resized, pad (shift by up to `pad` pixels) or none; auto is pad for small images, none for
    scenes, else resized."""
    crop_scale: tuple[float, float] = advanced((0.08, 1.0))
    """Range of the area fraction of a resized crop."""
    pad: int = advanced(4)
    """Padding in pixels before a pad crop."""
    hflip: float = advanced(0.5)
    """Probability of a horizontal flip."""
    auto_augment: Literal["none", "randaugment", "trivialaugment"] = advanced("none")
    """Auto-augment policy."""
    ra_magnitude: int = advanced(9)
    """Magnitude of RandAugment, 0 to 30."""
    color_jitter: float = advanced(0.0)
    """Strength of brightness, contrast and saturation jitter, 0 to 1."""
    erasing: float = advanced(0.0)
    """Probability of random erasing."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_choices(self, OLD_VALUES)
        low, high = self.crop_scale
        _require(
            0 < low <= high <= 1, f"`crop_scale` must be two fractions with 0 < low <= high <= 1, found {low} {high}"
        )
        _require(self.pad >= 0, f"`pad` must be 0 or more, found {self.pad}")
        _require(0 <= self.ra_magnitude <= 30, f"`ra_magnitude` must be 0 to 30, found {self.ra_magnitude}")
        _require(0 <= self.color_jitter <= 1, f"`color_jitter` must be 0 to 1, found {self.color_jitter}")
        for name in ("hflip", "erasing"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"`{name}` must be a probability from 0 to 1, found {value}")


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of images: resize the short side, center crop, scale to [0, 1], normalize.

    Attributes:
        image_size: Side of the square crop, in pixels.
        resize: Short side before the crop, in pixels. None stands for `image_size`; square images of that size are then
            not resampled.
        interpolation: nearest, bilinear, bicubic or lanczos, antialiased.
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
        check_choices(self)
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
    check_without_secret(path, flag)


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
