"""Draw the figures of docs/ from the recorded results beside them: `make docs-pictures`.

attention.png is drawn by attention_picture.py, which trains a network for minutes. results/nuclei256-examples.png shows
detections of a run described in results.md, and is not drawn again.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.figure import draw_positions
from benchmarks.rows import read_rows
from gcnet.comparison.figures import render_figure
from gcnet.comparison.results import read_results
from gcnet.data.scenes import Scenes
from gcnet.storage import write_atomic
from gcnet.visualization.images import contact_sheet
from gcnet.visualization.style import BLUE, GREEN, INK, block_color, figure_caption, save_figure, style_axes

DOCS = Path(__file__).parent
RESULTS = DOCS / "results"
PERFECT_MASK_AP = 95.9  # of masks of 28 x 28 cells, measured by benchmarks/perfect_masks.py
AP = {"mask_ap": "mask AP", "box_ap": "box AP"}
Rows = Sequence[Mapping[str, str]]


def main() -> None:
    """Draw all figures."""
    draw_scenes(DOCS / "scenes.png")
    for path in sorted(RESULTS.glob("*.json")):
        write_atomic(path.with_suffix(".png"), render_figure(read_results(path)))
    draw_positions(*read_rows(RESULTS / "cost-vs-positions.csv"), RESULTS / "cost-vs-positions.png")
    draw_nuclei(rows("nuclei256"), rows("nuclei256-loss"), RESULTS / "nuclei256.png")
    draw_coco_eight(rows("coco-eight"), RESULTS / "coco-eight.png")


def draw_scenes(path: Path) -> None:
    """Draw six scenes with the framed reference patch, and six of the control setting."""
    images, titles = [], []
    for context, name in ((True, "scenes"), (False, "scenes-control")):
        scenes = Scenes(6, context=context)
        images += [scenes.read(index) for index in range(len(scenes))]
        titles += [f"{name}: {scenes.classes[scenes.label(index)]}" for index in range(len(scenes))]
    caption = figure_caption("generated scenes, 64 x 64 pixels", "upper row scenes, lower row scenes-control")
    contact_sheet(images, titles, path, tile=192, caption=caption)


def draw_nuclei(evaluations: Rows, losses: Rows, path: Path) -> None:
    """Draw training loss and AP of Mask R-CNN on nuclei, with and without blocks, one line or dot per seed."""
    figure = Figure(figsize=(12, 3.8), dpi=120, layout="constrained")
    loss, *panels = figure.subplots(1, 3)
    for (block, _), rows in _grouped(losses).items():
        loss.plot(*_points(rows, "loss"), color=block_color(block), linewidth=1.2, alpha=0.8)
    loss.set_yscale("log")
    style_axes(loss, "Training loss", "step", "sum of the losses")
    blocks = list(dict.fromkeys(row["block"] for row in evaluations))
    for axes, (key, name) in zip(panels, AP.items(), strict=True):
        _draw_dots(axes, evaluations, blocks, key)
        style_axes(axes, f"Validation {name}", "step", name)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
    seeds = len({row["seed"] for row in evaluations})
    network = "mask_rcnn_resnet18 with and without gc in c3 to c5"
    caption = figure_caption("nuclei256", network, f"{seeds} seeds", "66 validation images", date="2026-11-29")
    save_figure(figure, path, caption=caption)


def draw_coco_eight(rows: Rows, path: Path) -> None:
    """Draw box and mask AP of a detector on its own training images."""
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for (key, name), color in zip(AP.items(), (GREEN, BLUE), strict=True):
        steps, values = _points(rows, key)
        axes.plot(steps, [100 * value for value in values], color=color, marker="o", label=name)
    axes.axhline(PERFECT_MASK_AP, color=INK, linestyle="--", linewidth=1, label="mask AP of perfect 28 x 28 masks")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 103)
    style_axes(axes, "AP on the training images", "step (2 images)", "AP")
    axes.legend(frameon=False, loc="lower right")
    network = "mask_rcnn_resnet18 + gc"
    caption = figure_caption("8 images of COCO train2017", network, "1 seed", date="2026-11-25")
    save_figure(figure, path, caption=caption)


def _draw_dots(axes: Axes, evaluations: Rows, blocks: Sequence[str], key: str) -> None:
    """A dot for each seed; blocks side by side at each step."""
    steps = sorted({int(row["step"]) for row in evaluations})
    for number, block in enumerate(blocks):
        rows = [row for row in evaluations if row["block"] == block]
        shift = 0.16 * (number - (len(blocks) - 1) / 2)
        places = [steps.index(int(row["step"])) + shift for row in rows]
        values = [100 * float(row[key]) for row in rows]
        axes.plot(places, values, "o", color=block_color(block), markersize=7, alpha=0.85, label=block)
    axes.set_xticks(range(len(steps)), list(map(str, steps)))
    axes.set_xlim(-0.5, len(steps) - 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _grouped(rows: Rows) -> dict[tuple[str, str], list[Mapping[str, str]]]:
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["block"], row["seed"]), []).append(row)
    return groups


def _points(rows: Iterable[Mapping[str, str]], key: str) -> tuple[list[int], list[float]]:
    pairs = [(int(row["step"]), float(row[key])) for row in rows]
    return [step for step, _ in pairs], [value for _, value in pairs]


def rows(name: str) -> Rows:
    """Read the rows of a CSV of the recorded results."""
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
