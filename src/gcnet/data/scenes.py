"""Generated scenes: textured shapes to be compared with a distant reference patch.

Every scene shows a framed reference patch near a corner and `OBJECTS` shapes elsewhere, each of its own brightness. The
label is the number of shapes that are brighter than the patch: 0 to 5, six equally frequent classes. Brightness is the
mean of the three channels over a shape, or over the patch inside its frame; it differs from that of the patch by at
least `MARGIN`. Shapes and patch are at least `distance` pixels apart. Features whose receptive field is not larger
cover a shape or the patch, never both, and cannot compare them. Global average pooling of such features does not help:
the comparison is not a sum of terms of single shapes and of the patch.

In the control setting (`context=False`) the patch has the same brightness in every image, so each shape can be
classified on its own against a learned constant.

The scenes test one ability; they are not a benchmark of natural images.
"""

import io
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from gcnet.data.images.sources import ImageSource
from gcnet.errors import UserError, unknown
from gcnet.storage import write_atomic

OBJECTS = 5
SHAPES = ("disc", "square", "triangle", "diamond", "cross", "ring")
CATEGORIES = ("reference", "dark", "bright")
"""Of the objects in a scene as detection data: a shape is dark or bright as the reference patch far away is."""
_SPLITS = ("train", "val")
MARGIN = 0.04

_DARKEST, _BRIGHTEST = 0.28, 0.93
_REFERENCE_RANGE = (0.34, 0.87)
_CONTROL_REFERENCE = 0.6
_TEXTURE_CONTRAST, _TINT = 0.07, 0.25
_BAND = 0.375  # how much further than the distance a shape may lie, as a share of the size
_TRIES = 100
_STREAM = 0x5CE7E5  # keeps these random numbers apart from others of the same seed


@dataclass(frozen=True)
class SceneInstance:
    """An instance in a scene: the reference patch or a shape.

    Attributes:
        category: "reference" or a name of `SHAPES`.
        top: Top edge of its square box, in pixels.
        left: Left edge of its square box, in pixels.
        side: Side of its square box, in pixels.
        brightness: Mean brightness, 0 to 1.
    """

    category: str
    top: int
    left: int
    side: int
    brightness: float


class Scenes(ImageSource):
    """A data set of scenes, generated on access and determined by (seed, split, index).

    Args:
        length: Number of scenes.
        size: Side of the square images in pixels, at least 32.
        distance: Minimum distance in pixels between the box of the reference patch and that of a shape, along the
            larger of both axes. The maximum is larger by three eighths of `size`.
        context: Whether the reference patch differs between images; False is the control setting.
        split: "train" or "val".
        seed: Seed of the data set.

    Raises:
        UserError: The split is unknown, or the distance leaves no room for the shapes.
    """

    classes = tuple(f"{count} brighter" for count in range(OBJECTS + 1))

    def __init__(
        self,
        length: int,
        *,
        size: int = 64,
        distance: int = 32,
        context: bool = True,
        split: str = "train",
        seed: int = 0,
    ) -> None:
        if split not in _SPLITS:
            raise unknown("split", split, _SPLITS)
        if size < 32:
            raise UserError(f"scenes are at least 32 pixels wide, found {size}")
        largest = size - 2 * _side(size) - _slack(size)
        if not 0 <= distance <= largest:
            raise UserError(f"the distance in scenes of {size} pixels must be 0 to {largest}, found {distance}")
        self.length, self.size, self.distance = length, size, distance
        self.context, self.split, self.seed = context, split, seed

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        """Return the name of the scene at `index`, such as scenes/train/000017."""
        return f"scenes/{self.split}/{index:06d}"

    def label(self, index: int) -> int:
        """Return the number of shapes brighter than the reference patch in the scene at `index`."""
        return index % (OBJECTS + 1)

    def file(self, index: int) -> None:
        """Return None for any `index`: scenes have no files."""

    def read(self, index: int) -> Image.Image:
        """Return the scene at `index`: RGB, `size` x `size` pixels."""
        random = self._random(index)
        instances = self._instances(random, self.label(index))
        canvas = _background(random, self.size)
        for instance in instances:
            _draw(canvas, instance, random)
        return Image.fromarray((canvas.clip(0, 1) * 255 + 0.5).astype(np.uint8))

    def instances(self, index: int) -> list[SceneInstance]:
        """Return the reference patch and then the shapes of the scene at `index`."""
        return self._instances(self._random(index), self.label(index))

    def masks(self, index: int) -> Bool[np.ndarray, "instances size size"]:
        """Return the masks of the scene at `index`, (instances, size, size), in the order of `instances`."""
        instances = self.instances(index)
        masks = np.zeros((len(instances), self.size, self.size), dtype=bool)
        for mask, instance in zip(masks, instances, strict=True):
            _window(mask, instance)[...] = _silhouettes(instance.side)[instance.category]
        return masks

    def coco_annotations(self) -> dict[str, Any]:
        """Return the data set as COCO annotations.

        Boxes are (x, y, w, h) in pixels, masks are run lengths, ids count from 1. The categories are `CATEGORIES`: a
        shape is "dark" or "bright" depending on the reference patch of its image, in the control setting depending on
        its own brightness.
        """
        categories = [{"id": number, "name": name} for number, name in enumerate(CATEGORIES, start=1)]
        images, annotations = [], []
        for index in range(self.length):
            side = {"width": self.size, "height": self.size}
            images.append({"id": index + 1, "file_name": f"{index:06d}.png", **side})
            instances = self.instances(index)
            for instance, mask in zip(instances, self.masks(index), strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": CATEGORIES.index(self._category(instance, instances[0])) + 1,
                        "bbox": _box(mask),
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                        "segmentation": {"size": [self.size, self.size], "counts": _run_lengths(mask)},
                    }
                )
        return {"images": images, "categories": categories, "annotations": annotations}

    def _category(self, instance: SceneInstance, reference: SceneInstance) -> str:
        """Return the category of an instance, given the reference patch of its scene."""
        if instance is reference:
            return "reference"
        decides, middle = (reference, sum(_REFERENCE_RANGE) / 2) if self.context else (instance, _CONTROL_REFERENCE)
        return "bright" if decides.brightness > middle else "dark"

    def write_coco(self, images: Path, annotations: Path) -> None:
        """Write the data set in COCO format.

        Args:
            images: Folder of the PNG images.
            annotations: JSON file of the annotations.

        Raises:
            StorageError: A file cannot be written.
        """
        content = self.coco_annotations()
        images.mkdir(parents=True, exist_ok=True)
        annotations.parent.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(content["images"]):
            stream = io.BytesIO()
            self.read(index).save(stream, "PNG")
            write_atomic(images / image["file_name"], stream.getvalue())
        write_atomic(annotations, json.dumps(content).encode())

    def _random(self, index: int) -> np.random.Generator:
        return np.random.default_rng((_STREAM, self.seed, _SPLITS.index(self.split), index))

    def _instances(self, random: np.random.Generator, label: int) -> list[SceneInstance]:
        reference = random.uniform(*_REFERENCE_RANGE) if self.context else _CONTROL_REFERENCE
        share = random.random(OBJECTS)
        brighter = reference + MARGIN + share * (_BRIGHTEST - reference - MARGIN)
        darker = _DARKEST + share * (reference - MARGIN - _DARKEST)
        brightness = np.where(np.arange(OBJECTS) < label, brighter, darker)
        shapes = random.integers(len(SHAPES), size=OBJECTS)
        corner, places = self._places(random)
        side = _side(self.size)
        return [SceneInstance("reference", *corner, side, float(reference))] + [
            SceneInstance(SHAPES[shape], *place, side, float(value))
            for place, shape, value in zip(places, shapes, brightness, strict=True)
        ]

    def _places(self, random: np.random.Generator) -> tuple[tuple[int, int], list[tuple[int, int]]]:
        """Return top-left corners of patch and shapes: drawn at the upper left, then mirrored at random."""
        side, last = _side(self.size), self.size - _side(self.size)
        row, column = (int(value) for value in random.integers(0, _slack(self.size) + 1, size=2))
        for _ in range(_TRIES):
            places = self._free_places(random, row + side + self.distance, column + side + self.distance)
            if len(places) == OBJECTS:
                break
        else:
            raise UserError(f"{OBJECTS} shapes do not fit at distance {self.distance} in {self.size} pixels")
        down, right = (bool(value) for value in random.integers(0, 2, size=2))

        def mirrored(place: tuple[int, int]) -> tuple[int, int]:
            return last - place[0] if down else place[0], last - place[1] if right else place[1]

        return mirrored((row, column)), [mirrored(place) for place in places]

    def _free_places(self, random: np.random.Generator, rows: int, columns: int) -> list[tuple[int, int]]:
        """Return corners of non-overlapping shapes outside the first `rows` and `columns`, within a band."""
        side, last = _side(self.size), self.size - _side(self.size)
        band = round(_BAND * self.size)
        free = np.zeros((last + 1, last + 1), dtype=bool)
        free[: rows + band, : columns + band] = True
        free[:rows, :columns] = False
        places: list[tuple[int, int]] = []
        for _ in range(OBJECTS):
            spots = np.flatnonzero(free)
            if not len(spots):
                break
            top, left = divmod(int(spots[random.integers(len(spots))]), last + 1)
            places.append((top, left))
            free[max(top - side, 0) : top + side + 1, max(left - side, 0) : left + side + 1] = False
        return places


def _side(size: int) -> int:
    return round(size * 10 / 64)


def _slack(size: int) -> int:
    """Return the maximum distance of the patch from the corner, in pixels."""
    return size // 32


def _window(canvas: np.ndarray, instance: SceneInstance) -> np.ndarray:
    return canvas[
        instance.top : instance.top + instance.side,
        instance.left : instance.left + instance.side,
    ]


@cache
def _silhouettes(side: int) -> dict[str, Bool[np.ndarray, "side side"]]:
    y, x = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
    radius = np.hypot(x, y)
    half_pixel = 0.5 / side
    return {
        "reference": np.ones((side, side), dtype=bool),
        "disc": radius <= 1,
        "square": np.maximum(abs(x), abs(y)) <= 0.9,
        "triangle": abs(x) <= (y + 1) / 2 + half_pixel,
        "diamond": abs(x) + abs(y) <= 1 + half_pixel,
        "cross": np.minimum(abs(x), abs(y)) <= 0.4,
        "ring": (radius <= 1) & (radius >= 0.4),
    }


@cache
def _textures(side: int) -> list[Float[np.ndarray, "field field"]]:
    """Stripes in four directions, a checkerboard, a soft checkerboard and a constant; values in [-1, 1], twice as wide
    as
    a shape.
    """
    y, x = np.mgrid[: 2 * side, : 2 * side]
    wave = 2 * np.pi / max(side * 0.4, 3)
    slanted = wave / 2**0.5
    waves = [wave * x + 0.1, wave * y + 0.1, slanted * (x + y) + 0.1, slanted * (x - y) + 0.1]
    checker = np.sin(waves[0]) * np.sin(waves[1])
    patterns = [np.sign(np.sin(phase)) for phase in waves] + [np.sign(checker), checker, np.zeros_like(checker)]
    return [pattern.astype(np.float32) for pattern in patterns]


def _background(random: np.random.Generator, size: int) -> Float[np.ndarray, "size size 3"]:
    tone = random.uniform(0.08, 0.16) * _tint(random, 0.5)
    coarse = Image.fromarray(random.standard_normal((6, 6), dtype=np.float32))
    clouds = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    grain = random.standard_normal((size, size), dtype=np.float32)
    return (1 + 0.25 * clouds + 0.12 * grain)[..., None] * tone


def _tint(random: np.random.Generator, strength: float) -> Float[np.ndarray, "3"]:
    """Return a color whose channels have the mean 1."""
    hue = random.random() * 2 * np.pi
    return (1 + strength * np.cos(hue + np.array([0, 2, 4]) * np.pi / 3)).astype(np.float32)


def _draw(canvas: Float[np.ndarray, "size size 3"], instance: SceneInstance, random: np.random.Generator) -> None:
    window = _window(canvas, instance)
    if instance.category == "reference":
        window[...] = 1.0
        window[1:-1, 1:-1] = 0.0
        window = window[2:-2, 2:-2]
        mask = np.ones(window.shape[:2], dtype=bool)
    else:
        mask = _silhouettes(instance.side)[instance.category]
    window[mask] = _textured_tile(random, instance, mask)[mask]


def _textured_tile(
    random: np.random.Generator, instance: SceneInstance, mask: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w 3"]:
    """Return a textured, tinted tile whose mean over `mask` is the brightness of the instance, without clipping."""
    textures = _textures(instance.side)
    texture = textures[random.integers(len(textures))]
    top, left = random.integers(0, instance.side + 1, size=2)
    texture = texture[top : top + mask.shape[0], left : left + mask.shape[1]]
    contrast = min(_TEXTURE_CONTRAST, (1 - instance.brightness) / 2)  # a texture less its mean stays within [-2, 2]
    tile = instance.brightness + contrast * (texture - texture[mask].mean())
    return tile[..., None] * _tint(random, min(_TINT, 1 / (instance.brightness + 2 * contrast) - 1))


def _box(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def _run_lengths(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """Return COCO's uncompressed run lengths: down the columns, background first."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
