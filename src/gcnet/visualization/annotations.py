"""COCO annotations drawn on images, and figures of label statistics."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw
from torch import Tensor

from gcnet.data.coco.annotated_images import FolderReader
from gcnet.data.coco.masks import BitMasks, compressed_runs, segmentation_mask
from gcnet.data.decode import ImageError
from gcnet.data.images.sources import evenly_spread
from gcnet.visualization.plots import BLUE, INK, VERMILLION, contact_sheet, plain, save_figure, style_axes

SMALL, MEDIUM = 32, 96
"""COCO's bounds of small and medium objects: areas of their squares, in pixels."""
_LISTED_CLASSES = 30
_TILE = 320
# Okabe & Ito's palette, bright enough to be seen on photographs.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def draw_annotations(image: Image.Image, annotations: Sequence[Mapping[str, Any]]) -> Image.Image:
    """The image (RGB) with the boxes and masks of its annotations (without issues), a colour for each category."""
    pixels = np.array(image, dtype=np.float32)  # (H, W, 3)
    for annotation in annotations:
        if annotation.get("segmentation"):
            mask = segmentation_mask(annotation["segmentation"], image.height, image.width)
            pixels[mask] = 0.5 * pixels[mask] + 0.5 * np.array(category_colour(annotation["category_id"]))
    drawn = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(drawn)
    line = max(1, round(max(image.size) / _TILE))
    for annotation in annotations:
        left, top, width, height = annotation["bbox"]
        right, bottom = max(left + width - 1, left), max(top + height - 1, top)
        draw.rectangle((left, top, right, bottom), outline=category_colour(annotation["category_id"]), width=line)
    return drawn


def draw_targets(image: Float[Tensor, "3 h w"], target: Mapping[str, Tensor]) -> Image.Image:
    """An image in [0, 1] with the boxes and masks of a target as `gcnet.data.coco.masks.Objects.to_dict` gives it."""
    values = (image.float().cpu() * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    corners = target["boxes"].cpu()
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
    masks = BitMasks(target["mask_bits"].cpu(), image.shape[-1])
    annotations = [
        {"category_id": label, "bbox": box, "segmentation": compressed_runs(mask.bool().numpy())}
        for label, box, mask in zip(target["labels"].tolist(), boxes, masks, strict=True)
    ]
    return draw_annotations(Image.fromarray(values), annotations)


def draw_annotated_sheet(content: Mapping[str, Any], folder: Path, path: Path, *, count: int = 24) -> int:
    """Write some images spread over a COCO set (without issues) with their annotations into a PNG; returns how many."""
    images = content["images"]
    chosen = evenly_spread(images, count)
    names = {category["id"]: category["name"] for category in content["categories"]}
    of_image: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in chosen}
    for annotation in content["annotations"]:
        if annotation["image_id"] in of_image:
            of_image[annotation["image_id"]].append(annotation)
    reader, pictures, titles = FolderReader(folder, images), [], []
    for image in chosen:
        try:
            picture = reader(image)
        except ImageError:
            continue
        found = of_image[image["id"]]
        counts = Counter(names[annotation["category_id"]] for annotation in found)
        listed = ", ".join(f"{number} {name}" for name, number in counts.most_common(3)) or "nothing"
        pictures.append(draw_annotations(picture, found))
        titles.append(f"{image['file_name']}\n{listed}")
    if pictures:
        contact_sheet(pictures, titles, path, columns=4, tile=_TILE)
    return len(pictures)


def plot_label_statistics(content: Mapping[str, Any], path: Path) -> None:
    """Draw a COCO set (without issues) into a PNG: objects by class, by size and by image, and where they lie."""
    annotations = content["annotations"]
    sides = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    figure = Figure(figsize=(14, 9), layout="constrained")
    (classes, sizes), (images, places) = figure.subplots(2, 2)
    _draw_classes(classes, content)
    _draw_sizes(sizes, [annotation["area"] for annotation in annotations])
    _draw_image_counts(images, Counter(annotation["image_id"] for annotation in annotations), len(sides))
    _draw_places(places, [(annotation["bbox"], sides[annotation["image_id"]]) for annotation in annotations])
    save_figure(figure, path)


def _draw_classes(axes: Any, content: Mapping[str, Any]) -> None:
    counts = Counter(annotation["category_id"] for annotation in content["annotations"])
    ordered = sorted(content["categories"], key=lambda category: -counts[category["id"]])
    shown = ordered[:_LISTED_CLASSES]
    values = [counts[category["id"]] for category in shown]
    size = 10 if len(shown) <= 12 else 7.5
    axes.barh(range(len(shown)), values, color=BLUE)
    more = f", the {len(shown)} most frequent of {len(ordered)}" if len(ordered) > len(shown) else ""
    style_axes(axes, f"Objects by class{more}", "objects", "")
    axes.set_yticks(range(len(shown)), [plain(category["name"], 22) for category in shown], fontsize=size)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_sizes(axes: Any, areas: Sequence[float]) -> None:
    roots = np.sqrt(np.asarray(areas, dtype=float))
    if len(roots):
        bins = np.geomspace(roots.min() * 0.99, roots.max() * 1.01 + 1e-6, 40)
        axes.hist(roots, bins=bins, color=BLUE)
        shares = [np.mean(roots < SMALL), np.mean((roots >= SMALL) & (roots < MEDIUM)), np.mean(roots >= MEDIUM)]
        words = [f"{share:.0%} {name}" for share, name in zip(shares, ("small", "medium", "large"), strict=True)]
        text = axes.text(0.98, 0.95, "\n".join(words), transform=axes.transAxes, ha="right", va="top", color=INK)
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 3})  # legible where it crosses a line
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    for bound in (SMALL, MEDIUM):
        axes.axvline(bound, color=VERMILLION, linestyle="--", linewidth=1)
    style_axes(
        axes, f"Objects by size; lines at {SMALL} and {MEDIUM} pixels", "square root of the area (pixels)", "objects"
    )


def _draw_image_counts(axes: Any, counts: Counter[int], images: int) -> None:
    values = np.array([*counts.values(), *[0] * (images - len(counts))])
    if len(values):
        axes.hist(values, bins=np.arange(-0.5, min(values.max(), 100) + 1.5), color=BLUE)
    empty = images - len(counts)
    style_axes(axes, f"Objects by image ({empty:,} of {images:,} have none)", "objects in an image", "images")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_places(axes: Any, boxes: Sequence[tuple[Sequence[float], tuple[int, int]]]) -> None:
    centres = np.array(
        [((box[0] + box[2] / 2) / width, (box[1] + box[3] / 2) / height) for box, (width, height) in boxes]
    ).reshape(-1, 2)
    counts, _, _ = np.histogram2d(centres[:, 1], centres[:, 0], bins=24, range=((0, 1), (0, 1)))
    picture = axes.imshow(counts, cmap="Blues", extent=(0, 1, 1, 0), aspect="equal")
    axes.figure.colorbar(picture, ax=axes, fraction=0.04, pad=0.02, label="objects")
    style_axes(axes, "Centers of the boxes", "share of the width", "share of the height")
    axes.grid(False)


def category_colour(category_id: int) -> tuple[int, int, int]:
    """Red, green and blue of a category, always the same."""
    return _COLOURS[category_id % len(_COLOURS)]
