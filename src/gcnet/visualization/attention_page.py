"""Interactive page of attention maps, self-contained: click an image to choose the query."""

import base64
import io
import json
import math
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from markupsafe import Markup
from PIL import Image

from gcnet.visualization.attention_maps import (
    COLOR_MAP,
    SMALLEST_LIMIT,
    ImageMaps,
    LayerMaps,
    image_edges,
    log_ratio,
)
from gcnet.visualization.attention_tiles import EDGE_OPACITY
from gcnet.visualization.images import data_uri
from gcnet.visualization.pages import render_page

PAGE_BYTES = 12_000_000
"""Maximum size of a page; images that do not fit even with the coarsest maps are skipped."""
_SIDES = (28, 20, 14, 10, 7)  # cells of queries and of keys along an axis, at most
_IMAGE_SIDE, _EDGE_SIDE = 448, 224  # pixels


class Page:
    """A page of at most about `PAGE_BYTES`, to which images are added one by one.

    Maps are means over heads, of at most 28 x 28 cells of queries and of keys (fewer if the page would be too large).
    They are stored as 256 steps of the logarithm of their ratio to uniform attention, from 1/k to k: k is the peak, and
    at least 2. Lower weights count as 1/k.

    Args:
        title: of the page.
        total: number of images that will be added, all of one network.
    """

    def __init__(self, title: str, total: int) -> None:
        self.title = title
        self._total = total
        self._side = _SIDES[-1]
        self._size = 0
        self._images: list[dict[str, Any]] = []
        self._is_cut = False

    def __len__(self) -> int:
        """How many images the page holds."""
        return len(self._images)

    def add(self, maps: ImageMaps) -> None:
        """Add the attention `maps` of an image, unless there is no room for it."""
        if not self._images:
            fits = (side for side in _SIDES if self._total * _size(maps, side) <= PAGE_BYTES)
            self._side = next(fits, _SIDES[-1])
            grids = [grid for layer in maps.layers for grid in (layer.attention.grid, layer.attention.key_grid)]
            self._is_cut = any(max(grid) > self._side for grid in grids)
        size = _size(maps, self._side)
        if not self._images or self._size + size <= PAGE_BYTES:
            self._images.append(_image(maps, self._side))
            self._size += size

    @property
    def _has_queries(self) -> bool:
        """Whether any layer has a map for each query."""
        return any(not layer["shared"] for image in self._images for layer in image["layers"])

    def render(self) -> str:
        """Return the page as HTML text."""
        table = (matplotlib.colormaps[COLOR_MAP](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
        content = {
            "side": self._side,
            "colors": _base64(table.tobytes()),
            "images": self._images,
            "has_queries": self._has_queries,
        }
        return render_page(
            "attention.html",
            title=self.title,
            has_queries=self._has_queries,
            largest_side=self._side if self._is_cut else 0,
            gradient=Markup(", ".join(f"rgb({red} {green} {blue})" for red, green, blue in table[::15].tolist())),
            content=Markup(json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")),
        )


def _size(image: ImageMaps, side: int) -> int:
    """Estimate the bytes of an image in the page: base64 of the maps, image, edges and peaks."""
    total = 90_000
    for layer in image.layers:
        rows = math.prod(_queries(layer, side)) + 1
        total += int(rows * (math.prod(_cut(layer.attention.key_grid, side)) * 4 / 3 + 6))
    return total


def _cut(grid: tuple[int, ...], side: int) -> tuple[int, int]:
    return min(grid[0], side), min(grid[1], side)


def _queries(layer: LayerMaps, side: int) -> tuple[int, int]:
    return (1, 1) if layer.attention.is_shared else _cut(layer.attention.grid, side)


def _image(maps: ImageMaps, side: int) -> dict[str, Any]:
    picture = maps.image.copy()
    picture.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE))
    return {
        "name": maps.path.name.encode(errors="replace").decode(),
        "answer": maps.answer,
        "source": data_uri(picture),
        "edge_source": _edges(picture),
        "layers": [_layer(layer, side) for layer in maps.layers],
    }


def _edges(picture: Image.Image) -> str:
    """The edges of the image as a black PNG that is transparent elsewhere."""
    small = picture.copy()
    small.thumbnail((_EDGE_SIDE, _EDGE_SIDE))
    strength = (EDGE_OPACITY * 15 * image_edges(small)).round() / 15  # few levels compress well
    pixels = Image.new("LA", small.size)
    pixels.putalpha(Image.fromarray((255 * strength).astype(np.uint8)))
    stream = io.BytesIO()
    pixels.save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{_base64(stream.getvalue())}"


def _layer(layer: LayerMaps, side: int) -> dict[str, Any]:
    """Keys: name, shared, queries and keys (rows, columns), maps (bytes, a row for each query and the mean), peaks."""
    rows, columns = _queries(layer, side)
    points = [((column + 0.5) / columns, (row + 0.5) / rows) for row in range(rows) for column in range(columns)]
    keys = _cut(layer.attention.key_grid, side)
    shown = [] if layer.attention.is_shared else [layer.map_of(point) for point in points]
    maps = np.stack([_pooled(values, keys) for values in [*shown, layer.mean_map()]])  # (queries + 1, h, w)
    peaks = [float(f"{max(float(values.max()), 0.0):.3g}") for values in maps]
    limits = [max(SMALLEST_LIMIT, math.log2(max(peak, 1.0))) for peak in peaks]
    ratios = np.stack([log_ratio(values, limit) / limit for values, limit in zip(maps, limits, strict=True)])
    steps = ((ratios + 1) / 2 * 255).round().astype(np.uint8)
    return {
        "name": layer.name or layer.kind,
        "shared": layer.attention.is_shared,
        "queries": [rows, columns],
        "keys": list(keys),
        "maps": _base64(steps.tobytes()),
        "peaks": peaks,
    }


def _pooled(values: Float[np.ndarray, "h w"], keys: tuple[int, int]) -> Float[np.ndarray, "a b"]:
    return F.adaptive_avg_pool2d(torch.from_numpy(values)[None], keys)[0].numpy()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
