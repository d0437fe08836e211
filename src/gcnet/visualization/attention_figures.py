"""Figures of attention: maps by query, gates by class, distances by layer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from gcnet.analysis.query_independence import Interval, Layer
from gcnet.data.images.sources import evenly_spread
from gcnet.visualization.attention_maps import ImageMaps, LayerMaps, Point
from gcnet.visualization.fonts import shown_text
from gcnet.visualization.style import BLUE, GREEN, INK, VERMILION, save_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


COLOURS = "inferno"
UNIFORM_MIDDLE = 2.0
"""Scales reach at least this multiple of uniform attention, so that an even map has the middle color."""
MOST_ROWS = 16
_TILE = 1.75  # inches
_POINT = "#00E5FF"  # seen on photographs and on the colours of the maps


def plot_queries(maps: ImageMaps, points: Sequence[Point], path: Path) -> int:
    """Draw the layers that have a map for each query: a row each, a column for each query point, the mean at the end.

    All maps of a row have one scale of colours, so that what differs between queries can be seen. Returns how many
    layers are drawn: at most `MOST_ROWS`, spread evenly; none, and no file, where there are none.
    """
    layers = evenly_spread([layer for layer in maps.layers if not layer.attention.is_shared], MOST_ROWS)
    if not layers:
        return 0
    columns = len(points) + 1
    figure = Figure(figsize=(_TILE * columns + 1.2, _TILE * (len(layers) + 1) + 0.8), layout="constrained")
    grid = figure.subplots(len(layers) + 1, columns + 1, squeeze=False, width_ratios=[*[1] * columns, 0.07])
    for column, axes in enumerate(grid[0, :-1]):
        _draw_image(axes, maps.image)
        if column < len(points):
            _mark(axes, points[column], maps.image)
        axes.set_title(f"query {column + 1}" if column < len(points) else "mean of all", fontsize=11, color=INK)
    grid[0, 0].set_ylabel("image", fontsize=10)
    grid[0, -1].axis("off")
    for axes_row, layer in zip(grid[1:], layers, strict=True):
        shown = [*(layer.map_of(point) for point in points), layer.mean_map()]
        highest = max(float(one.max()) for one in shown)
        for axes, values, point in zip(axes_row[:-1], shown, [*points, None], strict=True):
            drawn = _draw_map(axes, values, maps.image, highest)
            if point is not None:
                _mark(axes, point, maps.image)
        axes_row[0].set_ylabel(_title(layer), fontsize=9)
        _style_scale(figure.colorbar(drawn, cax=axes_row[-1]))
    _head(figure, maps)
    save_figure(figure, path)
    return len(layers)


def plot_shared(maps: ImageMaps, path: Path) -> int:
    """Draw the layers that have one map for all queries, side by side; returns how many, as `plot_queries`."""
    layers = evenly_spread([layer for layer in maps.layers if layer.attention.is_shared], MOST_ROWS)
    if not layers:
        return 0
    columns = min(len(layers) + 1, 5)
    rows = -(-(len(layers) + 1) // columns)
    figure = Figure(figsize=((_TILE + 0.6) * columns, (_TILE + 0.4) * rows + 0.6), layout="constrained")
    pairs = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=[1, 0.06] * columns).reshape(-1, 2)
    _draw_image(pairs[0, 0], maps.image)
    pairs[0, 0].set_title("image", fontsize=9, color=INK)
    for (tile, scale), layer in zip(pairs[1:], layers, strict=False):
        values = layer.mean_map()
        _style_scale(figure.colorbar(_draw_map(tile, values, maps.image, float(values.max())), cax=scale))
        tile.set_title(_title(layer), fontsize=9, color=INK)
    for axes in (pairs[0, 1], *pairs[len(layers) + 1 :].flatten()):
        axes.axis("off")
    _head(figure, maps)
    save_figure(figure, path)
    return len(layers)


def plot_gates(
    gates: Sequence[tuple[str, Float[np.ndarray, "k _"]]], classes: Sequence[str], path: Path, *, images: int
) -> None:
    """Draw what gates multiply their channels by: a panel each, a row for each class, channels sorted by their mean.

    Args:
        gates: name, and mean weights of each class.
        classes: names of the rows.
        path: of the PNG.
        images: that the means are over.
    """
    shown = evenly_spread(list(gates), MOST_ROWS)
    height = 0.7 + min(0.22 * len(classes), 4)
    figure = Figure(figsize=(9, height * len(shown) + 0.9), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False).flatten()
    for axes, (name, weights) in zip(panels, shown, strict=True):
        order = np.argsort(-weights.mean(0), kind="stable")
        drawn = axes.imshow(weights[:, order], aspect="auto", cmap="viridis", interpolation="nearest")
        axes.set_title(shown_text(name, 60), loc="left", fontsize=10, color=INK)
        if len(classes) <= 20:
            axes.set_yticks(range(len(classes)), [shown_text(one, 20) for one in classes], fontsize=8)
        else:
            axes.set_ylabel("class", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.tick_params(labelsize=8)
        figure.colorbar(drawn, ax=axes, pad=0.01).ax.tick_params(labelsize=8)
    panels[-1].set_xlabel("channels of the layer, sorted by their mean weight", fontsize=9)
    figure.suptitle(
        f"Channel weights (factor){' by class' * (len(classes) > 1)}, mean over {images} image{'s' * (images != 1)}",
        **{"x": 0.01, "ha": "left", "fontsize": 12, "color": INK},
    )
    save_figure(figure, path)


def plot_distances(layers: Sequence[Layer], path: Path) -> None:
    """Draw the average distances of `measure_layers`, a row for each layer, with their intervals."""
    rows = list(range(len(layers)))[::-1]
    only_inputs = all(layer.is_shared for layer in layers)  # The other distances are 0 by construction.
    figure = Figure(figsize=(7 if only_inputs else 11, 0.42 * len(layers) + 1.8), layout="constrained")
    panels = figure.subplots(1, 1 if only_inputs else 2, sharey=True, squeeze=False)[0]
    cosine = panels[0]
    quantities = [
        (0.2, "input", "input $x_i$", INK),
        (0.0, "added", "output $z_i - x_i$", BLUE),
        (-0.2, "attention", "attention", VERMILION),
    ]
    for offset, key, name, colour in quantities[: 1 if only_inputs else 3]:
        _dots(cosine, [getattr(layer, key) for layer in layers], [row + offset for row in rows], name, colour)
    style_axes(cosine, "Between positions, on average", "cosine distance (0 same, 0.5 unrelated)", "")
    if not only_inputs:
        _dots(panels[1], [layer.divergence for layer in layers], [float(row) for row in rows], "attention", GREEN)
        style_axes(panels[1], "Of attention maps", "Jensen-Shannon divergence (nats, at most 0.69)", "")
    cosine.set_yticks(rows, [shown_text(layer.name or layer.kind, 36) for layer in layers], fontsize=9)
    for axes, least in zip(panels, (0.2, 0.05), strict=False):  # so that next to nothing looks like next to nothing
        right = max(axes.get_xlim()[1], least)
        axes.set_xlim(-0.02 * right, right)
        axes.set_ylim(-0.6, len(layers) - 0.4)
    figure.legend(*cosine.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False, fontsize=10)
    save_figure(figure, path)


def _dots(axes: "Axes", values: Sequence[Interval | None], heights: Sequence[float], name: str, colour: str) -> None:
    known = [(value, height) for value, height in zip(values, heights, strict=True) if value is not None]
    for value, height in known:
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [height, height], color=colour, linewidth=3, alpha=0.35)
    places = [height for _, height in known]
    axes.plot([value.mean for value, _ in known], places, "o", color=colour, markersize=5, label=name)


def _title(layer: LayerMaps) -> str:
    height, width = layer.attention.key_grid
    return f"{shown_text(layer.name or layer.kind, 24)}\n{height} x {width}"


def _draw_image(axes: "Axes", image: Image.Image) -> None:
    axes.imshow(np.asarray(image), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_map(axes: "Axes", values: Float[np.ndarray, "h w"], image: Image.Image, highest: float) -> Any:
    """The map over the image in grey; weights below zero count as zero."""
    axes.imshow(np.asarray(image.convert("L")), cmap="gray", vmin=0, vmax=255)
    extent = (-0.5, image.width - 0.5, image.height - 0.5, -0.5)
    drawn = axes.imshow(
        values,
        cmap=COLOURS,
        vmin=0,
        vmax=max(highest, UNIFORM_MIDDLE),
        alpha=0.72,
        extent=extent,
        interpolation="nearest",
    )
    axes.set_xticks([])
    axes.set_yticks([])
    return drawn


def _mark(axes: "Axes", point: Point, image: Image.Image) -> None:
    x, y = point[0] * image.width - 0.5, point[1] * image.height - 0.5
    axes.plot([x], [y], "o", color=_POINT, markeredgecolor="black", markeredgewidth=0.8, markersize=6)


def _style_scale(bar: Any) -> None:
    bar.ax.tick_params(labelsize=8)
    bar.ax.yaxis.set_major_locator(MaxNLocator(4))


def _head(figure: Figure, maps: ImageMaps) -> None:
    """The figure's first lines: which image, what it was taken for, and what the colours are."""
    scale = "color: attention weight, as a multiple of uniform attention (uniform = 1)"
    text = f"{shown_text(maps.path.name, 40)}: {shown_text(maps.answer, 40)}\n{scale}"
    figure.suptitle(text, x=0.01, ha="left", fontsize=11, color=INK)
