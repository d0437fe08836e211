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
from PIL import Image
from torch import Tensor

from gcnet.data.coco.annotated_images import FolderReader
from gcnet.data.coco.masks import BitMasks, compressed_runs
from gcnet.data.decode import ImageError
from gcnet.data.images.sources import evenly_spread
from gcnet.visualization.fonts import shown_text
from gcnet.visualization.images import contact_sheet, fit_image
from gcnet.visualization.overlays import Overlay, draw_overlays, instance_color
from gcnet.visualization.style import BLUE, VERMILION, save_figure, style_axes

SMALL, MEDIUM = 32, 96
"""COCO's bounds of small and medium objects: areas of their squares, in pixels."""
_LISTED_CLASSES = 30
_TILE = 320


def draw_annotations(
    image: Image.Image, annotations: Sequence[Mapping[str, Any]], *, side: int | None = None
) -> Image.Image:
    """Draw COCO annotations on their image, each object in a color of its own.

    Args:
        image: RGB.
        annotations: without issues; `bbox` and `segmentation` in pixels of the image.
        side: resize the image to this longer side in pixels before drawing (default: no resizing).

    Returns:
        The annotated image, RGB.
    """
    overlays = [Overlay(annotation, instance_color(index)) for index, annotation in enumerate(annotations)]
    shown = image if side is None else fit_image(image, side)
    return draw_overlays(shown, overlays, (image.height, image.width))


def draw_targets(
    image: Float[Tensor, "3 h w"], target: Mapping[str, Tensor], *, side: int | None = None
) -> Image.Image:
    """Draw the objects of a training image, each in a color of its own.

    Args:
        image: values from 0 to 1.
        target: as from `gcnet.data.coco.masks.Objects.to_dict`: `boxes` (n, 4) as left, top, right and bottom in
            pixels, `labels` (n,) and `mask_bits`.
        side: as for `draw_annotations`.

    Returns:
        The annotated image.
    """
    values = (image.float().cpu() * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    corners = target["boxes"].cpu()
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
    masks = BitMasks(target["mask_bits"].cpu(), image.shape[-1])
    annotations = [
        {"category_id": label, "bbox": box, "segmentation": compressed_runs(mask.bool().numpy())}
        for label, box, mask in zip(target["labels"].tolist(), boxes, masks, strict=True)
    ]
    return draw_annotations(Image.fromarray(values), annotations, side=side)


def draw_annotated_sheet(
    content: Mapping[str, Any], folder: Path, path: Path, *, count: int = 24, caption: str = ""
) -> int:
    """Write a PNG with annotated images, spread evenly over a COCO set.

    Args:
        content: of the annotation file, without issues.
        folder: with the images; those that cannot be read are skipped.
        path: of the PNG, which is not written if no image can be read.
        count: maximum number of images.
        caption: small text below, from `gcnet.visualization.style.figure_caption`.

    Returns:
        The number of images drawn.
    """
    images = content["images"]
    chosen = evenly_spread(images, count)
    names = {category["id"]: category["name"] for category in content["categories"]}
    objects: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in chosen}
    for annotation in content["annotations"]:
        if annotation["image_id"] in objects:
            objects[annotation["image_id"]].append(annotation)
    reader, pictures, titles = FolderReader(folder, images), [], []
    for image in chosen:
        try:
            picture = reader(image)
        except ImageError:
            continue
        annotations = objects[image["id"]]
        counts = Counter(names[annotation["category_id"]] for annotation in annotations)
        listed = ", ".join(f"{number} {name}" for name, number in counts.most_common(3)) or "no objects"
        pictures.append(draw_annotations(picture, annotations, side=_TILE))
        titles.append(f"{image['file_name']}\n{listed}")
    if pictures:
        contact_sheet(pictures, titles, path, columns=4, tile=_TILE, caption=caption)
    return len(pictures)


def plot_label_statistics(content: Mapping[str, Any], path: Path, *, caption: str = "") -> None:
    """Draw statistics of a COCO set into a PNG: objects by class, by size and by image, and centers of the boxes.

    Args:
        content: of the annotation file, without issues.
        path: of the PNG.
        caption: small text below, from `gcnet.visualization.style.figure_caption`.
    """
    annotations = content["annotations"]
    sides = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    figure = Figure(figsize=(14, 9), layout="constrained")
    (classes, sizes), (images, centers) = figure.subplots(2, 2)
    _draw_classes(classes, content)
    _draw_sizes(sizes, [annotation["area"] for annotation in annotations])
    _draw_image_counts(images, Counter(annotation["image_id"] for annotation in annotations), len(sides))
    _draw_centers(centers, [(annotation["bbox"], sides[annotation["image_id"]]) for annotation in annotations])
    save_figure(figure, path, caption=caption)


def _draw_classes(axes: Any, content: Mapping[str, Any]) -> None:
    counts = Counter(annotation["category_id"] for annotation in content["annotations"])
    ordered = sorted(content["categories"], key=lambda category: -counts[category["id"]])
    shown = ordered[:_LISTED_CLASSES]
    values = [counts[category["id"]] for category in shown]
    size = 10 if len(shown) <= 12 else 7.5
    axes.barh(range(len(shown)), values, color=BLUE, height=min(0.8, 0.25 * len(shown)))
    more = f", the {len(shown)} most frequent of {len(ordered)}" if len(ordered) > len(shown) else ""
    style_axes(axes, f"Objects by class{more}", "objects", "")
    axes.set_yticks(range(len(shown)), [shown_text(category["name"], 22) for category in shown], fontsize=size)
    axes.set_ylim(max(len(shown), 3) - 0.5, -0.5)  # a bar of one class does not fill the panel
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_sizes(axes: Any, areas: Sequence[float]) -> None:
    roots = np.sqrt(np.asarray(areas, dtype=float))
    words: list[str] = []
    if len(roots):
        bins = np.geomspace(roots.min() * 0.99, roots.max() * 1.01 + 1e-6, 40)
        axes.hist(roots, bins=bins, color=BLUE)
        shares = [np.mean(roots < SMALL), np.mean((roots >= SMALL) & (roots < MEDIUM)), np.mean(roots >= MEDIUM)]
        names = ("small", "medium", "large")
        words = [f"{100 * share:.0f} % {name}" for share, name in zip(shares, names, strict=True)]
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    for bound in (SMALL, MEDIUM):
        axes.axvline(bound, color=VERMILION, linestyle="--", linewidth=1)
    style_axes(
        axes,
        f"Objects by size: {', '.join(words) or 'none'}",
        f"square root of the area (pixels); COCO's limits at {SMALL} and {MEDIUM}",
        "objects",
    )


def _draw_image_counts(axes: Any, counts: Counter[int], images: int) -> None:
    values = np.array([*counts.values(), *[0] * (images - len(counts))])
    if len(values):
        axes.hist(values, bins=np.arange(-0.5, min(values.max(), 100) + 1.5), color=BLUE)
    empty = images - len(counts)
    style_axes(axes, f"Objects by image ({empty:,} of {images:,} have none)", "objects in an image", "images")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_centers(axes: Any, boxes: Sequence[tuple[Sequence[float], tuple[int, int]]]) -> None:
    centers = np.array(
        [((box[0] + box[2] / 2) / width, (box[1] + box[3] / 2) / height) for box, (width, height) in boxes]
    ).reshape(-1, 2)
    counts, _, _ = np.histogram2d(centers[:, 1], centers[:, 0], bins=24, range=((0, 1), (0, 1)))
    picture = axes.imshow(counts, cmap="Blues", extent=(0, 1, 1, 0), aspect="equal")
    axes.figure.colorbar(picture, ax=axes, fraction=0.04, pad=0.02, label="objects")
    style_axes(axes, "Centers of the boxes", "share of the width", "share of the height")
    axes.grid(False)
