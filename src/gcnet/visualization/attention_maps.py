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
"""Where a query is: from the left and from the top, as shares of the image's width and height."""

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
        """The query position that a point of the image lies in."""
        height, width = self.attention.grid
        column, row = (min(int(share * side), side - 1) for share, side in zip(point, (width, height), strict=True))
        return row * width + column

    def map_of(self, point: Point) -> Float[np.ndarray, "h w"]:
        """The map of the query at a point, as multiples of the uniform weight."""
        return self._relative(self.attention.map_of(self.position(point)))

    def mean_map(self) -> Float[np.ndarray, "h w"]:
        """The mean of the maps of all queries, in the same unit."""
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
        layers: those that attend over two axes, in the order of the calls.
        gates: of those that weigh channels; of one image each.
        unread: a sentence about attention that cannot be read, or empty.
    """

    path: Path
    image: Image.Image
    label: int
    answer: str
    layers: tuple[LayerMaps, ...]
    gates: tuple[Gate, ...]
    unread: str = ""


def layer_maps(model: nn.Module, attention: Sequence[tuple[str, Attention]]) -> tuple[LayerMaps, ...]:
    """The captured attention of a model that is over two axes."""
    return tuple(
        LayerMaps(name, type(model.get_submodule(name)).__name__, one)
        for name, one in attention
        if len(one.grid) == len(one.key_grid) == 2
    )


def choose_points(words: Sequence[str], image: Image.Image) -> list[Point]:
    """The query points that `--points` asks for.

    Args:
        words: "auto", four that differ in colour; "grid", three by three; or points as X,Y, from 0 to 1.
        image: in which "auto" looks.

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
    """The centre, then each time the cell whose colour is farthest from those already chosen."""
    cells = np.asarray(image.convert("RGB").resize((_AUTO_CELLS, _AUTO_CELLS), Image.Resampling.BOX), dtype=float)
    colours = cells.reshape(-1, 3)
    chosen = [_AUTO_CELLS * (_AUTO_CELLS // 2) + _AUTO_CELLS // 2]
    while len(chosen) < _AUTO_POINTS:
        distances = ((colours[:, None] - colours[chosen]) ** 2).sum(-1).min(-1)
        # Far from the chosen in place too, where the colours say nothing.
        places = np.array(
            [
                min(math.dist(divmod(cell, _AUTO_CELLS), divmod(one, _AUTO_CELLS)) for one in chosen)
                for cell in range(len(colours))
            ]
        )
        chosen.append(int(np.lexsort((places, distances))[-1]))
    return [((cell % _AUTO_CELLS + 0.5) / _AUTO_CELLS, (cell // _AUTO_CELLS + 0.5) / _AUTO_CELLS) for cell in chosen]
