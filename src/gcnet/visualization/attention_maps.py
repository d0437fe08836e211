"""Attention maps of an image by layer, for query points and on average."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import nn

from gcnet.analysis.attention import Attention
from gcnet.analysis.capture import Gate
from gcnet.errors import UserError

Point = tuple[float, float]
"""Position of a query: x from the left and y from the top, as fractions of the image's width and height."""
Region = tuple[float, float, float, float]
"""Part of an image: left, top, right and bottom, as fractions of its width and height."""
COLOR_MAP = "RdBu_r"
"""Diverging color map of attention: white is uniform attention, red more, blue less."""
SMALLEST_LIMIT = 1.0
"""Color scales reach at least this log2 ratio to uniform attention, a factor of 2."""

_AUTO_POINTS, _AUTO_CELLS = 4, 14
_GRID = (1 / 6, 1 / 2, 5 / 6)


@dataclass(frozen=True)
class LayerMaps:
    """The attention of one layer on one image.

    Attributes:
        name: of the module.
        kind: its type.
        attention: of one image; its grid has two axes.
    """

    name: str
    kind: str
    attention: Attention

    def position(self, point: Point) -> int:
        """Return the index of the query position at `point`, in row-major order."""
        height, width = self.attention.grid
        column, row = (min(int(share * side), side - 1) for share, side in zip(point, (width, height), strict=True))
        return row * width + column

    def map_of(self, point: Point) -> Float[np.ndarray, "h w"]:
        """Return the map of the query at `point`, as ratios to uniform attention, (h, w)."""
        return self._relative(self.attention.map_of(self.position(point)))

    def mean_map(self) -> Float[np.ndarray, "h w"]:
        """Return the mean of the maps of all queries, as ratios to uniform attention, (h, w)."""
        return self._relative(self.attention.mean_map())

    def _relative(self, weights: Float[torch.Tensor, "1 h w"]) -> Float[np.ndarray, "h w"]:
        return (weights[0].float() * weights[0].numel()).cpu().numpy()


@dataclass(frozen=True)
class ImageMaps:
    """What a network did with one image.

    Attributes:
        path: of its file.
        image: as the network saw it.
        label: the most probable class, by its number; of a detector 0.
        answer: its name and probability; of a detector the objects.
        layers: with attention over two axes, in the order of the calls.
        gates: channel weights, of one image each.
        unread: a sentence about attention that cannot be read, or empty.
        region: part of the image of the file that the network saw, as fractions of its width and height.
    """

    path: Path
    image: Image.Image
    label: int
    answer: str
    layers: tuple[LayerMaps, ...]
    gates: tuple[Gate, ...]
    unread: str = ""
    region: Region = (0.0, 0.0, 1.0, 1.0)


def scale_limit(*maps: Float[np.ndarray, "_ _"]) -> float:
    """Return the end of a color scale for maps: log2 of the highest ratio to uniform attention, at least 1.

    Args:
        maps: ratios to uniform attention, from `LayerMaps.map_of` or `LayerMaps.mean_map`.
    """
    highest = max(float(values.max()) for values in maps)
    return max(SMALLEST_LIMIT, math.log2(max(highest, 1.0)))


def log_ratio(values: Float[np.ndarray, "*shape"], limit: float) -> Float[np.ndarray, "*shape"]:
    """Return log2 of ratios to uniform attention, clipped to a color scale.

    Args:
        values: ratios, of any shape; 0 and less become -limit.
        limit: end of the scale, from `scale_limit`.
    """
    return np.log2(np.maximum(values, 2.0**-limit)).clip(-limit, limit)


def image_edges(image: Image.Image) -> Float[np.ndarray, "h w"]:
    """Return the edges of an image, from 0 to 1, to be drawn over a map without hiding its colors."""
    gray = np.asarray(image.convert("L"), dtype=np.float32)
    strength = np.hypot(*np.gradient(gray)) if min(gray.shape) > 1 else np.zeros_like(gray)
    return (strength / max(float(np.quantile(strength, 0.98)), 1.0)).clip(0, 1)


def layer_maps(model: nn.Module, attention: Sequence[tuple[str, Attention]]) -> tuple[LayerMaps, ...]:
    """Return the captured attention over two spatial axes.

    Args:
        model: the network with these module names.
        attention: name of the module and its attention, in the order of the calls.
    """
    return tuple(
        LayerMaps(name, type(model.get_submodule(name)).__name__, weights)
        for name, weights in attention
        if len(weights.grid) == len(weights.key_grid) == 2
    )


def choose_points(words: Sequence[str], image: Image.Image) -> list[Point]:
    """Return the query points that are asked for.

    Args:
        words: "auto" for four points of different colors, "grid" for three by three, or points as X,Y from 0 to 1.
        image: to choose the points of "auto" from.

    Raises:
        UserError: a word is none of these.
    """
    if list(words) == ["auto"]:
        return _different_points(image)
    if list(words) == ["grid"]:
        return [(x, y) for y in _GRID for x in _GRID]
    return [_point(word) for word in words]


def _point(word: str) -> Point:
    try:
        x, y = (float(share) for share in word.split(","))
    except ValueError:
        x = y = math.nan
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise UserError(
            '`points` takes "auto", "grid", or points as X,Y, shares of width and height from 0 to 1, such as '
            f'0.5,0.25; found "{word}"'
        )
    return x, y


def _different_points(image: Image.Image) -> list[Point]:
    """The center, then repeatedly the cell whose color differs most from those already chosen."""
    cells = np.asarray(image.convert("RGB").resize((_AUTO_CELLS, _AUTO_CELLS), Image.Resampling.BOX), dtype=float)
    colors = cells.reshape(-1, 3)
    chosen = [_AUTO_CELLS * (_AUTO_CELLS // 2) + _AUTO_CELLS // 2]
    while len(chosen) < _AUTO_POINTS:
        distances = ((colors[:, None] - colors[chosen]) ** 2).sum(-1).min(-1)
        # Of equal colors, the cell farthest away.
        places = np.array(
            [
                min(math.dist(divmod(cell, _AUTO_CELLS), divmod(other, _AUTO_CELLS)) for other in chosen)
                for cell in range(len(colors))
            ]
        )
        chosen.append(int(np.lexsort((places, distances))[-1]))
    return [((cell % _AUTO_CELLS + 0.5) / _AUTO_CELLS, (cell // _AUTO_CELLS + 0.5) / _AUTO_CELLS) for cell in chosen]
