"""Small generated data sets for trying the commands: class folders and COCO annotations."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from gcnet.data.scenes import Scenes
from gcnet.errors import UserError, printable
from gcnet.storage import write_atomic

PHOTO_CLASSES = ("circle", "square", "star", "triangle")
PHOTOS = {"train": 24, "val": 8}
"""Photos of each class in each split."""
COCO_IMAGES = {"train": 24, "val": 8}
"""Images of the detection data in each split."""

_CORNERS = {"square": 4, "star": 10, "triangle": 3}
_STREAM = 0x5A3B1E  # keeps these random numbers apart from others of the same seed
_OVERSAMPLING = 3


def write_photos(folder: Path, *, seed: int = 0) -> int:
    """Write a classification data set: JPEG files in `train/CLASS` and `val/CLASS`, one shape per photo.

    Args:
        folder: Output folder; must be empty or not exist.
        seed: Seed of shapes, colors and backgrounds.

    Returns:
        Number of photos.

    Raises:
        UserError: The folder is not empty.
        StorageError: A file cannot be written.
    """
    _require_empty(folder)
    written = 0
    for split, count in PHOTOS.items():
        for label, name in enumerate(PHOTO_CLASSES):
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                random = np.random.default_rng((_STREAM, seed, list(PHOTOS).index(split), label, index))
                stream = io.BytesIO()
                _photo(name, random).save(stream, "JPEG", quality=90)
                write_atomic(place / f"{name}-{index:03d}.jpg", stream.getvalue())
                written += 1
    return written


def write_coco(folder: Path, *, seed: int = 0) -> int:
    """Write a detection data set: `annotations/instances_{train,val}.json` and images in `train` and `val`.

    The images are scenes of `gcnet.data.scenes`, with boxes and masks of three categories.

    Args:
        folder: Output folder; must be empty or not exist.
        seed: Seed of the scenes.

    Returns:
        Number of images.

    Raises:
        UserError: The folder is not empty.
        StorageError: A file cannot be written.
    """
    _require_empty(folder)
    for split, count in COCO_IMAGES.items():
        scenes = Scenes(count, size=128, distance=40, split=split, seed=seed)
        scenes.write_coco(folder / split, folder / "annotations" / f"instances_{split}.json")
    return sum(COCO_IMAGES.values())


SAMPLES: dict[str, Callable[..., int]] = {"photos": write_photos, "coco": write_coco}
"""Name of a sample data set -> the function that writes it."""


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"`output` must be a new or empty folder, found {printable(folder)}; choose another")


def _photo(name: str, random: np.random.Generator) -> Image.Image:
    """Draw a shape of random color, position, size and rotation on a blurred background; RGB, sides of 72 to 128
    pixels.
    """
    width, height = (int(side) for side in random.integers(72, 129, size=2))
    large = (width * _OVERSAMPLING, height * _OVERSAMPLING)
    background, color = random.integers(0, 110, 3), random.integers(120, 256, 3)
    clouds = np.clip(random.normal(0, 25, (6, 6, 1)) + background, 0, 255).astype(np.uint8)
    image = Image.fromarray(clouds).resize(large, Image.Resampling.BICUBIC)
    radius = random.uniform(0.25, 0.42) * min(large)
    center = [random.uniform(radius, side - radius) for side in large]
    draw, turn = ImageDraw.Draw(image), random.uniform(0, 2 * math.pi)
    fill = (int(color[0]), int(color[1]), int(color[2]))
    if name == "circle":
        draw.circle(center, radius, fill=fill)
    else:
        draw.polygon(_outline(_CORNERS[name], center, radius, turn), fill=fill)
    image = image.resize((width, height), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(0.6))
    noisy = np.asarray(image) + random.normal(0, 6, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _outline(corners: int, center: list[float], radius: float, turn: float) -> list[tuple[float, float]]:
    """Return the corners of a regular polygon; a star has ten corners at alternating radii."""
    return [
        (
            center[0] + radius * (0.45 if corners == 10 and corner % 2 else 1) * math.cos(turn + angle),
            center[1] + radius * (0.45 if corners == 10 and corner % 2 else 1) * math.sin(turn + angle),
        )
        for corner, angle in ((corner, 2 * math.pi * corner / corners) for corner in range(corners))
    ]
