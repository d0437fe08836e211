"""Detections in images: as a table, as JSON values and as pictures."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from gcnet.data.coco.masks import segmentation_mask
from gcnet.data.images.image_input import ImageInput
from gcnet.errors import printable
from gcnet.tasks.results import PredictionResult

if TYPE_CHECKING:
    from gcnet.visualization.overlays import Labels


@dataclass(frozen=True)
class ImageDetections:
    """Detections of an image.

    Attributes:
        source: the image.
        image_id: number of the image among the readable images, from 1.
        height: image height in pixels, after EXIF rotation.
        width: image width in pixels, after EXIF rotation.
        results: detections in COCO's result format (`gcnet.tasks.detection.coco_metrics.coco_results`), the highest
            score first, with the `area` of the mask in pixels, or of the box if there are no masks.
        categories: class names by category id.
    """

    source: ImageInput
    image_id: int
    height: int
    width: int
    results: tuple[dict[str, Any], ...]
    categories: dict[int, str]

    def with_number(self, image_id: int) -> "ImageDetections":
        """Return a copy with another `image_id`."""
        return replace(
            self, image_id=image_id, results=tuple({**result, "image_id": image_id} for result in self.results)
        )

    @property
    def path(self) -> Path | None:
        """Image file, None for an image in memory."""
        return self.source.path

    @property
    def boxes(self) -> Float[np.ndarray, "objects 4"]:
        """Boxes as left, top, right, bottom in pixels of the image, float64."""
        boxes = np.array([result["bbox"] for result in self.results], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes

    @property
    def scores(self) -> Float[np.ndarray, " objects"]:
        """Scores from 0 to 1, descending, float64."""
        return np.array([result["score"] for result in self.results], dtype=np.float64)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of the objects."""
        return tuple(self.categories[result["category_id"]] for result in self.results)

    @property
    def masks(self) -> Bool[np.ndarray, "objects height width"] | None:
        """Masks of the objects; None for a detector without masks."""
        segmentations = [result.get("segmentation") for result in self.results]
        if None in segmentations:
            return None
        shape = (len(segmentations), self.height, self.width)
        return np.array([segmentation_mask(rle, self.height, self.width) for rle in segmentations], dtype=bool).reshape(
            shape
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the detections as JSON values: class, score, box (left, top, right, bottom in pixels) and mask."""
        objects = [
            {
                "class": label,
                "score": result["score"],
                "box": box,
                **({"segmentation": result["segmentation"]} if "segmentation" in result else {}),
            }
            for label, result, box in zip(self.labels, self.results, self.boxes.tolist(), strict=True)
        ]
        return {"path": self.source.name, "height": self.height, "width": self.width, "objects": objects}

    def plot(self, *, labels: "Labels" = "auto") -> Image.Image:
        """Return the image, RGB, with its objects drawn.

        Args:
            labels: when to write class and score beside objects, as of
                `gcnet.visualization.detections.draw_detections`.
        """
        from gcnet.visualization.detections import draw_detections

        return draw_detections(self.source.open(), self.results, self.categories, labels=labels)


@dataclass(frozen=True)
class Detections(PredictionResult):
    """Result of `gcnet.predict` for a detector.

    Attributes:
        images: detections of each image, in the order of the files.
        categories: class names by category id.
    """

    images: tuple[ImageDetections, ...]
    categories: dict[int, str]

    def __str__(self) -> str:
        """Return a table with the number of objects, the highest score and the classes of each image."""
        if not self.images:
            return ""
        names = [printable(image.source.name) for image in self.images]
        width = max(map(len, [*names, "image"]))
        lines = [f"{'image':<{width}}  {'objects':>7}  {'best':>5}  classes"]
        for name, image in zip(names, self.images, strict=True):
            best = f"{image.results[0]['score']:.3f}" if image.results else "-"
            counts = Counter(result["category_id"] for result in image.results).most_common()
            classes = ", ".join(f"{count} {printable(self.categories[identity])}" for identity, count in counts)
            lines.append(f"{name:<{width}}  {len(image.results):>7}  {best:>5}  {classes or '-'}")
        return "\n".join(lines)

    def rows(self) -> Iterator[Sequence[object]]:
        """Yield the column names, then a row for each object with class, score and box in pixels."""
        yield "image", "class", "score", "left", "top", "width", "height"
        for image in self.images:
            for result in image.results:
                box = (f"{value:.2f}" for value in result["bbox"])
                yield image.source.name, self.categories[result["category_id"]], f"{result['score']:.6f}", *box

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values in the format of a COCO annotation file.

        Returns:
            `images` with `id`, `file_name` (the path), `width` and `height`; `categories` with `id` and `name`;
            `annotations`, the detections, with `id` (from 1), `image_id`, `category_id`, `bbox` (left, top, width,
            height in pixels), `score` (0 to 1), `segmentation` (compressed RLE; missing without masks), `area` (pixels
            of the mask or the box) and `iscrowd` (0); `images_skipped`, a number, and `skipped`, the unreadable files.
            The annotations alone are in COCO's result format.
        """
        images = [
            {"id": image.image_id, "file_name": image.source.name, "width": image.width, "height": image.height}
            for image in self.images
        ]
        results = [result for image in self.images for result in image.results]
        return {
            "images": images,
            "categories": [{"id": identity, "name": name} for identity, name in self.categories.items()],
            "annotations": [{"id": number, **result, "iscrowd": 0} for number, result in enumerate(results, start=1)],
            "images_skipped": len(self.skipped),
            "skipped": [{"name": skipped.name, "reason": skipped.reason} for skipped in self.skipped],
        }
