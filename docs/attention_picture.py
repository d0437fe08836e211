"""Draw the picture of the README: attention maps of a trained network on generated scenes, and a diagram of the block.

    python docs/attention_picture.py        # trains for about four minutes on two cores
    python docs/attention_picture.py RUN    # the run folder of an earlier training

Seeds are fixed; the picture is the same for the same versions and number of threads.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import gcnet
from gcnet.analysis.capture import capture
from gcnet.data.scenes import Scenes
from gcnet.data.settings import Preprocessing, PreprocessingSettings
from gcnet.data.transforms import build_eval_transform
from gcnet.tasks.classification.attention import attention_of_image
from gcnet.tasks.classification.trained import TrainedClassifier, find_preprocessing
from gcnet.tasks.trained import open_trained
from gcnet.visualization.attention_maps import COLOR_MAP, ImageMaps, image_edges, log_ratio
from gcnet.visualization.style import GREEN, INK, ORANGE, SOFT, VERMILION, figure_caption, save_figure

LAYER = "layer1.2.context"
SCENES = (0, 1, 2)
MEASURED = 200  # scenes of the validation split
LIMIT = 5.0  # color scale from 1/32 to 32 times uniform attention
PATCH_AREA = 10 * 10 / 64**2
RECIPE: dict[str, Any] = {
    "model": "gc_scenes_resnet",
    "data": "scenes",
    "limit_train": 6_400,
    "limit_val": 300,
    "steps": 600,
    "batch_size": 64,
    "optimizer": "adamw",
    "lr": 0.01,
    "weight_decay": 0.01,
    "clip_grad_norm": 5.0,
    "warmup_epochs": 0.3,
    "evaluate_every": 2.0,
}
PICTURE = Path(__file__).with_name("attention.png")


def train(**changes: Any) -> Path:
    """Train a small network with global context blocks on generated scenes; `changes` override `RECIPE`."""
    return gcnet.train(**RECIPE | changes).folder


def draw(maps: list[ImageMaps], path: Path, share: float) -> None:
    """Draw images, attention maps and the block; `share` of the attention is on the patch."""
    figure = Figure(figsize=(11, 4.3), dpi=110, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    grid = left.subplots(2, len(maps))
    for column, image_maps in zip(grid.T, maps, strict=True):
        drawn = draw_column(column, image_maps)
    bar = left.colorbar(drawn, ax=list(grid[1]), fraction=0.02, pad=0.02)
    bar.set_ticks([-5, -2.5, 0, 2.5, 5], labels=["1/32", "1/6", "1", "6", "32"])
    bar.set_label("attention, uniform = 1", fontsize=9, color=INK)
    grid[0, 0].set_ylabel("image", fontsize=11, color=INK)
    grid[1, 0].set_ylabel("attention map", fontsize=11, color=INK)
    text = (
        "Task: count the shapes that are brighter than the framed patch.\n"
        f"{100 * share:.0f} % of the attention is on the patch, which covers {100 * PATCH_AREA:.1f} % of the image."
    )
    left.suptitle(text, x=0.01, ha="left", fontsize=11, color=INK)
    right.suptitle("Global context block\n", x=0.5, fontsize=12, color=INK)
    draw_block(right.subplots())
    caption = figure_caption(
        "generated scenes",
        f"{RECIPE['model']}, {LAYER}",
        f"{RECIPE['steps']} training steps",
        f"mean of {MEASURED} validation scenes",
    )
    save_figure(figure, path, caption=caption)


def weight_on_patch(network: TrainedClassifier, scenes: Scenes, preprocessing: Preprocessing) -> float:
    """Measure the mean share of the attention that is on the framed patch."""
    content = scenes.coco_annotations()
    patch = next(category["id"] for category in content["categories"] if category["name"] == "reference")
    boxes = [entry["bbox"] for entry in content["annotations"] if entry["category_id"] == patch]  # one per scene
    transform = build_eval_transform(preprocessing)
    images = torch.stack([transform(scenes.read(index)) for index in range(len(boxes))])
    with torch.no_grad(), capture(network.model.eval()) as captured:
        network.model(images)
    weights = dict(captured.attention)[LAYER].mean_map()  # (n, h, w)
    cell = scenes.read(0).width / weights.shape[-1]
    rows, columns = np.mgrid[: weights.shape[1], : weights.shape[2]] * cell + cell / 2
    shares = []
    for (left, top, width, height), attention in zip(boxes, weights.numpy(), strict=True):
        inside = (abs(columns - left - width / 2) <= width / 2) & (abs(rows - top - height / 2) <= height / 2)
        shares.append(attention[inside].sum() / attention.sum())
    return float(np.mean(shares))


def draw_column(axes: np.ndarray, maps: ImageMaps) -> Any:
    """Draw an image, and below it its attention map with the edges of the image."""
    layer = next(layer for layer in maps.layers if layer.name == LAYER)
    extent = (-0.5, maps.image.width - 0.5, maps.image.height - 0.5, -0.5)
    axes[0].imshow(np.asarray(maps.image), interpolation="nearest")
    values = log_ratio(layer.mean_map(), LIMIT)
    drawn = axes[1].imshow(values, cmap=COLOR_MAP, vmin=-LIMIT, vmax=LIMIT, extent=extent, interpolation="nearest")
    edges = image_edges(maps.image)
    axes[1].imshow(np.zeros_like(edges), cmap="gray_r", vmin=0, vmax=1, alpha=0.6 * edges, extent=extent)
    for tile in axes:
        tile.set_xticks([])
        tile.set_yticks([])
    return drawn


def draw_block(axes: Axes) -> None:
    """Draw the block: context modeling by attention pooling, transform by a bottleneck, fusion by addition."""
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 10)
    axes.axis("off")
    boxes = (
        (8.1, 1.1, "1 x 1 convolution, softmax over positions", ORANGE),
        (6.4, 1.1, "attention pooling: C x 1 x 1", ORANGE),
        (4.3, 1.1, "1 x 1 convolution: C/r", GREEN),
        (3.0, 0.9, "LayerNorm, ReLU", GREEN),
        (1.7, 1.0, "1 x 1 convolution: C (initially 0)", GREEN),
    )
    for y, height, text, color in boxes:
        corner = (1.9, y - height / 2)
        style = {"boxstyle": "round,pad=0.02,rounding_size=0.15", "linewidth": 1.4}
        axes.add_patch(FancyBboxPatch(corner, 6.6, height, facecolor=(*_rgb(color), 0.16), edgecolor=color, **style))
        axes.text(5.2, y, text, ha="center", va="center", fontsize=9, color=INK)
    for start, end in ((9.4, 8.7), (7.5, 7.0), (5.8, 4.9), (3.7, 3.5), (2.5, 2.25), (1.15, 0.62)):
        axes.add_patch(FancyArrowPatch((5.2, start), (5.2, end), arrowstyle="-|>", mutation_scale=10, color=INK))
    axes.text(5.2, 9.7, "x: C x H x W", ha="center", va="center", fontsize=10, color=INK)
    axes.plot([5.2, 0.9, 0.9], [9.25, 9.25, 0.3], color=INK, linewidth=1.2)
    axes.add_patch(FancyArrowPatch((0.9, 0.3), (4.85, 0.3), arrowstyle="-|>", mutation_scale=10, color=INK))
    axes.text(5.2, 0.3, "+", ha="center", va="center", fontsize=15, color=VERMILION)
    axes.add_patch(FancyArrowPatch((5.55, 0.3), (7.2, 0.3), arrowstyle="-|>", mutation_scale=10, color=INK))
    axes.text(7.3, 0.3, "to every position", va="center", fontsize=9, color=INK)
    axes.text(9.9, 7.3, "context", rotation=90, ha="center", va="center", fontsize=9, color=SOFT)
    axes.text(9.9, 3.0, "transform", rotation=90, ha="center", va="center", fontsize=9, color=SOFT)


def _rgb(color: str) -> tuple[float, ...]:
    return tuple(int(color[start : start + 2], 16) / 255 for start in (1, 3, 5))


def main(run: Path, picture: Path = PICTURE, *, measured: int = MEASURED) -> None:
    """Draw the picture of a trained network.

    Args:
        run: run folder of `train`.
        picture: PNG to write.
        measured: number of validation scenes for the mean attention on the patch.
    """
    network: Any = open_trained(str(run)).trained
    preprocessing = find_preprocessing(network, PreprocessingSettings(), str(run))
    scenes = Scenes(measured, split="val")
    maps = []
    with tempfile.TemporaryDirectory() as folder:
        for index in SCENES:
            path = Path(folder, f"{index}.png")
            scenes.read(index).save(path)
            maps.append(attention_of_image(network, path, preprocessing))
    draw(maps, picture, weight_on_patch(network, scenes, preprocessing))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else train())
