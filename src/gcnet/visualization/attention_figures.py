"""Figures of attention: maps by query, channel weights by class, distances by layer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from gcnet.analysis.query_independence import INDEPENDENT, Interval, Layer
from gcnet.data.images.sources import evenly_spread
from gcnet.visualization.attention_maps import (
    COLOR_MAP,
    ImageMaps,
    LayerMaps,
    Point,
    image_edges,
    log_ratio,
    scale_limit,
)
from gcnet.visualization.attention_tiles import EDGE_OPACITY, POINT_COLOR
from gcnet.visualization.fonts import shown_text
from gcnet.visualization.style import BLUE, GREEN, INK, SOFT, VERMILION, save_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LAYERS = 16
_TILE = 1.75  # inches
_LEGEND = "color: attention relative to uniform attention (1, white), logarithmic; lines: edges of the image"


def plot_queries(maps: ImageMaps, points: Sequence[Point], path: Path, *, caption: str = "") -> int:
    """Draw the layers with a map for each query: a row each, with a column for each query point and the mean.

    The maps of a row have one color scale.

    Args:
        maps: of an image.
        points: query positions.
        path: of the PNG, which is not written without such layers.
        caption: small text below, from `gcnet.visualization.style.figure_caption`.

    Returns:
        The number of layers drawn, at most `MOST_LAYERS`, spread evenly.
    """
    layers = evenly_spread([layer for layer in maps.layers if not layer.attention.is_shared], MOST_LAYERS)
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
        limit = scale_limit(*shown)
        for axes, values, point in zip(axes_row[:-1], shown, [*points, None], strict=True):
            drawn = _draw_map(axes, values, maps.image, limit)
            if point is not None:
                _mark(axes, point, maps.image)
        axes_row[0].set_ylabel(_title(layer), fontsize=9)
        _style_scale(figure.colorbar(drawn, cax=axes_row[-1]), limit)
    _write_heading(figure, maps)
    save_figure(figure, path, caption=caption)
    return len(layers)


def plot_shared(maps: ImageMaps, path: Path, *, caption: str = "") -> int:
    """Draw the layers with one map for all queries side by side, each with its own color scale.

    Args:
        maps: of an image.
        path: of the PNG, which is not written without such layers.
        caption: small text below, from `gcnet.visualization.style.figure_caption`.

    Returns:
        The number of layers drawn, at most `MOST_LAYERS`, spread evenly.
    """
    layers = evenly_spread([layer for layer in maps.layers if layer.attention.is_shared], MOST_LAYERS)
    if not layers:
        return 0
    columns = min(len(layers) + 1, 5)
    rows = -(-(len(layers) + 1) // columns)
    figure = Figure(figsize=((_TILE + 0.75) * columns, (_TILE + 0.4) * rows + 0.6), layout="constrained")
    pairs = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=[1, 0.06] * columns).reshape(-1, 2)
    _draw_image(pairs[0, 0], maps.image)
    pairs[0, 0].set_title("image", fontsize=9, color=INK)
    for (tile, scale), layer in zip(pairs[1:], layers, strict=False):
        values = layer.mean_map()
        limit = scale_limit(values)
        _style_scale(figure.colorbar(_draw_map(tile, values, maps.image, limit), cax=scale), limit)
        tile.set_title(_title(layer), fontsize=9, color=INK)
    for axes in (pairs[0, 1], *pairs[len(layers) + 1 :].flatten()):
        axes.axis("off")
    _write_heading(figure, maps)
    save_figure(figure, path, caption=caption)
    return len(layers)


def plot_gates(
    gates: Sequence[tuple[str, Float[np.ndarray, "k _"]]],
    classes: Sequence[str],
    path: Path,
    *,
    images: int,
    caption: str = "",
) -> None:
    """Draw channel weights of gates: a panel for each layer, a row for each class, channels sorted by mean weight.

    All panels have one color scale.

    Args:
        gates: name and mean weights of each class.
        classes: names of the rows.
        path: of the PNG.
        images: number of images that the means are over.
        caption: small text below, from `gcnet.visualization.style.figure_caption`.
    """
    shown = evenly_spread(list(gates), MOST_LAYERS)
    height = 0.7 + min(0.22 * len(classes), 4)
    figure = Figure(figsize=(9, height * len(shown) + 0.9), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False).flatten()
    low, high = (float(reduce([reduce(weights) for _, weights in shown])) for reduce in (np.min, np.max))
    for axes, (name, weights) in zip(panels, shown, strict=True):
        order = np.argsort(-weights.mean(0), kind="stable")
        drawn = axes.imshow(
            weights[:, order], aspect="auto", cmap="viridis", interpolation="nearest", vmin=low, vmax=high
        )
        axes.set_title(shown_text(name, 60), loc="left", fontsize=10, color=INK)
        if len(classes) <= 20:
            axes.set_yticks(range(len(classes)), [shown_text(label, 20) for label in classes], fontsize=8)
        else:
            axes.set_ylabel("class", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.tick_params(labelsize=8)
    bar = figure.colorbar(drawn, ax=list(panels), pad=0.01, shrink=min(1.0, 2.5 / (height * len(shown))))
    bar.ax.tick_params(labelsize=8)
    bar.set_label("weight", fontsize=9)
    panels[-1].set_xlabel("channels of the layer, sorted by their mean weight", fontsize=9)
    figure.suptitle(
        f"Channel weights{' by class' * (len(classes) > 1)}, mean over {images} image{'s' * (images != 1)}",
        **{"x": 0.01, "ha": "left", "fontsize": 12, "color": INK},
    )
    save_figure(figure, path, caption=caption)


def plot_distances(layers: Sequence[Layer], path: Path, *, caption: str = "") -> None:
    """Draw average distances between positions, a row for each layer, with 95 % intervals.

    Args:
        layers: of `gcnet.analysis.query_independence.measure_layers`. If all of them have one map for all queries,
            only the distances of their inputs are drawn.
        path: of the PNG.
        caption: small text below, from `gcnet.visualization.style.figure_caption`.
    """
    rows = list(range(len(layers)))[::-1]
    only_inputs = all(layer.is_shared for layer in layers)
    figure = Figure(figsize=(7.5 if only_inputs else 11, 0.42 * len(layers) + 1.9), layout="constrained")
    panels = figure.subplots(1, 1 if only_inputs else 2, sharey=True, squeeze=False)[0]
    cosine = panels[0]
    quantities = [
        (0.2, "input", "input $x_i$", INK),
        (0.0, "added", "output $z_i - x_i$", BLUE),
        (-0.2, "attention", "attention", VERMILION),
    ]
    for offset, key, name, color in quantities[: 1 if only_inputs else 3]:
        _draw_intervals(cosine, [getattr(layer, key) for layer in layers], [row + offset for row in rows], name, color)
    title = "Inputs; the attention is query-independent by construction" if only_inputs else "Between positions"
    style_axes(cosine, title, "mean cosine distance (0 equal, 0.5 unrelated)", "")
    if not only_inputs:
        heights = [float(row) for row in rows]
        _draw_intervals(panels[1], [layer.divergence for layer in layers], heights, "attention", GREEN)
        style_axes(panels[1], "Between attention maps", "Jensen-Shannon divergence (nats, at most 0.69)", "")
        cosine.axvline(INDEPENDENT, color=SOFT, linestyle=":", linewidth=1.2, label="limit of query independence")
    cosine.set_yticks(rows, [shown_text(layer.name or layer.kind, 36) for layer in layers], fontsize=9)
    for axes, least in zip(panels, (0.2, 0.05), strict=False):  # small distances look small
        right = max(axes.get_xlim()[1], least)
        axes.set_xlim(-0.02 * right, right)
        axes.set_ylim(-0.6, len(layers) - 0.4)
    figure.legend(*cosine.get_legend_handles_labels(), loc="outside lower left", ncols=4, frameon=False, fontsize=10)
    save_figure(figure, path, caption=caption)


def _draw_intervals(
    axes: "Axes", values: Sequence[Interval | None], heights: Sequence[float], name: str, color: str
) -> None:
    known = [(value, height) for value, height in zip(values, heights, strict=True) if value is not None]
    for value, height in known:
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [height, height], color=color, linewidth=3, alpha=0.35)
    places = [height for _, height in known]
    axes.plot([value.mean for value, _ in known], places, "o", color=color, markersize=5, label=name)


def _title(layer: LayerMaps) -> str:
    height, width = layer.attention.key_grid
    return f"{shown_text(layer.name or layer.kind, 24)}\n{height} x {width}"


def _draw_image(axes: "Axes", image: Image.Image) -> None:
    axes.imshow(np.asarray(image), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_map(axes: "Axes", values: Float[np.ndarray, "h w"], image: Image.Image, limit: float) -> Any:
    """The map in opaque colors, which are those of the color bar, with the edges of the image in black above."""
    extent = (-0.5, image.width - 0.5, image.height - 0.5, -0.5)
    drawn = axes.imshow(
        log_ratio(values, limit), cmap=COLOR_MAP, vmin=-limit, vmax=limit, extent=extent, interpolation="nearest"
    )
    edges = image_edges(image)
    axes.imshow(np.zeros_like(edges), cmap="gray", vmin=0, vmax=1, alpha=EDGE_OPACITY * edges, extent=extent)
    axes.set_xticks([])
    axes.set_yticks([])
    return drawn


def _mark(axes: "Axes", point: Point, image: Image.Image) -> None:
    x, y = point[0] * image.width - 0.5, point[1] * image.height - 0.5
    axes.plot([x], [y], "o", color=POINT_COLOR, markeredgecolor="black", markeredgewidth=0.8, markersize=6)


def _style_scale(bar: Any, limit: float) -> None:
    """Label the color bar with ratios to uniform attention."""
    step = max(1, int(limit / 2))
    exponents = [exponent * step for exponent in range(-int(limit // step), int(limit // step) + 1)]
    bar.set_ticks(exponents, labels=[_ratio(exponent) for exponent in exponents])
    bar.ax.tick_params(labelsize=8)


def _ratio(exponent: int) -> str:
    return f"{2**exponent:,}" if exponent >= 0 else f"1/{2**-exponent:,}"


def _write_heading(figure: Figure, maps: ImageMaps) -> None:
    """The image, the prediction, and the meaning of the colors."""
    text = f"{shown_text(maps.path.name, 40)}: {shown_text(maps.answer, 40)}\n{_LEGEND}"
    figure.suptitle(text, x=0.01, ha="left", fontsize=11 if len(figure.axes) > 4 else 8, color=INK)
