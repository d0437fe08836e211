"""The figure of `positions`: time and peak memory of every block against the number of positions, log against log."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from benchmarks.rows import Circumstances, Row
from gcnet.visualization.style import INK, block_color, figure_caption, save_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_positions(rows: Sequence[Row], where: Circumstances, path: Path) -> None:
    """Write the PNG. Peaks too small to be seen in the process's memory (0) are left out."""
    figure = Figure(figsize=(12, 4.8), dpi=130, layout="constrained")
    time, memory = figure.subplots(1, 2)
    _draw(time, rows, lambda row: row.minimum_ms)
    _draw(memory, rows, lambda row: (row.peak_bytes or 0) / 1e6)
    inputs = sorted({(_positions(row), row.input_bytes / 1e6) for row in rows})
    (line,) = memory.plot(*zip(*inputs, strict=True), color=INK, linestyle="--", linewidth=1, label="the map itself")
    channels = rows[0].shape.split("x")[1]
    style_axes(time, f"Inference, {channels} channels, batch 1, threads: {where.threads}", "positions", "time (ms)")
    style_axes(memory, "Peak memory beyond the map", "positions", "peak (MB)")
    figure.legend(handles=[*time.get_lines(), line], loc="outside lower center", ncols=4, frameon=False)
    save_figure(figure, path, caption=figure_caption(where.device, date=where.date[:10]))


def _draw(axes: "Axes", rows: Sequence[Row], value: Callable[[Row], float]) -> None:
    for block in dict.fromkeys(row.contestant for row in rows):
        points = [(_positions(row), value(row)) for row in rows if row.contestant == block and value(row) > 0]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                color=block_color(block),
                marker="o",
                markersize=4,
                linewidth=1.8,
                label=block,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    counts = sorted({_positions(row) for row in rows})
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.set_xticks([], minor=True)


def _positions(row: Row) -> int:
    height, width = row.shape.split("x")[2:]
    return int(height) * int(width)
