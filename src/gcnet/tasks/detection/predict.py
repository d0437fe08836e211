"""Detects objects in image files."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads

from gcnet.data.coco.loading import image_to_tensor
from gcnet.data.coco.masks import extent
from gcnet.data.dataset import Skipped
from gcnet.data.decode import ImageError, open_image
from gcnet.errors import UserError, printable, unknown
from gcnet.models.detector.heads import limit_detections
from gcnet.models.detector.transform import RoundedTransform
from gcnet.models.outputs import evaluating
from gcnet.progress_bar import progress_bar
from gcnet.storage import write_atomic
from gcnet.tasks.base import LoadedModel
from gcnet.tasks.detection.inference import RawDetections, detect, pasted_results
from gcnet.tasks.detection.trained import TrainedDetector, describe_resizing
from gcnet.tasks.results import PredictionResult
from gcnet.tasks.settings import PredictSettings
from gcnet.visualization.detections import draw_detections, picture_names
from gcnet.visualization.images import encode_jpeg

THRESHOLD = 0.5
_BATCH_SIZE = 1
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageDetections:
    """Detections of an image.

    Attributes:
        path: image file.
        image_id: number of the image among the readable images, from 1.
        height: image height in pixels, after EXIF rotation.
        width: image width in pixels, after EXIF rotation.
        results: detections in COCO's result format (`gcnet.tasks.detection.coco_metrics.coco_results`), the highest
            score first, with the `area` of the mask in pixels, or of the box if there are no masks.
    """

    path: Path
    image_id: int
    height: int
    width: int
    results: tuple[dict[str, Any], ...]


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
        names = [printable(image.path) for image in self.images]
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
                yield image.path, self.categories[result["category_id"]], f"{result['score']:.6f}", *box

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
            {"id": image.image_id, "file_name": str(image.path), "width": image.width, "height": image.height}
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


def predict(loaded: LoadedModel, paths: Sequence[Path], settings: PredictSettings) -> Detections:
    """Detect objects in image files, and write annotated images to `settings.output`.

    Args:
        loaded: a `TrainedDetector` on its device.
        paths: image files.
        settings: settings of the prediction.

    Returns:
        The detections and the skipped files.

    Raises:
        UserError: a class is unknown, `output` is not a folder or is the folder of the images, or an output file
            exists.
    """
    detector = loaded.trained
    assert isinstance(detector, TrainedDetector)
    _check_output(settings, paths)
    if settings.detections_per_image is not None:
        limit_detections(detector.model, settings.detections_per_image)
    pictures = _Pictures(detector, paths, settings)
    for file in pictures.files():
        if file.exists():
            settings.refuse_existing("output", file)
    _logger.info("images: %s", describe_resizing(detector.model))
    with progress_bar("images", len(paths)) as progress:
        detections = detect_images(
            detector,
            paths,
            threshold=THRESHOLD if settings.threshold is None else settings.threshold,
            classes=None if settings.classes is None else [name.strip() for name in settings.classes.split(",")],
            batch_size=settings.batch_size or _BATCH_SIZE,
            show=pictures,
            progress=progress,
        )
    if settings.output is None or not detections.images:
        return detections
    return replace(detections, figures=f"pictures of the images with their objects: {settings.output}")


def _check_output(settings: PredictSettings, paths: Sequence[Path]) -> None:
    """Refuse an output that is a file, or the folder of the images, where the next prediction would read it."""
    output = settings.output
    if output is None:
        return
    if not output.is_dir() and (output.exists() or output.suffix.lower() in (".png", ".jpg", ".jpeg")):
        raise UserError(f"`output` of a detector is a folder for a picture of each image, found {output}")
    if os.path.realpath(output) in {os.path.realpath(path.parent) for path in paths}:
        raise UserError(
            f"`output` must be another folder than that of the images, found {printable(output)}, where its pictures "
            "would be read as images"
        )


class _Pictures:
    """Writes annotated images into a folder, if there is one."""

    def __init__(self, detector: TrainedDetector, paths: Sequence[Path], settings: PredictSettings) -> None:
        self._folder = folder = settings.output
        self._labels = settings.labels or "auto"
        self._classes = dict(zip(detector.category_ids, detector.names(), strict=True))
        self._names = {} if folder is None else picture_names(paths, folder)

    def files(self) -> list[Path]:
        """Return the paths of the annotated images."""
        return [] if self._folder is None else [self._folder / name for name in self._names.values()]

    def __call__(self, image: Image.Image, detections: ImageDetections) -> None:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            picture = draw_detections(image, detections.results, self._classes, labels=self._labels)
            write_atomic(self._folder / self._names[detections.path], encode_jpeg(picture))


def detect_images(
    detector: TrainedDetector,
    paths: Sequence[Path],
    *,
    threshold: float = 0.5,
    classes: Sequence[str] | None = None,
    batch_size: int = 1,
    show: Callable[[Image.Image, ImageDetections], None] = lambda *_: None,
    progress: Callable[[int], None] = lambda _: None,
) -> Detections:
    """Detect objects in image files; unreadable files are skipped.

    Memory is bounded: masks are pasted into the image only for detections that are kept, a few at a time.

    Args:
        detector: the detector, on any device.
        paths: image files.
        threshold: minimum score, 0 to 1; a detection must exceed it.
        classes: names of the classes to keep (default: all).
        batch_size: images per forward pass; they are padded to one size, which changes scores slightly.
        show: called with each image (RGB) and its detections.
        progress: called with the number of files of each batch.

    Returns:
        The detections and the skipped files.

    Raises:
        UserError: a class is unknown, or the threshold is out of range.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"the score threshold must be from 0 to 1, found {threshold}")
    device = next(detector.model.parameters()).device
    labels = torch.tensor(_labels(detector.names(), classes), dtype=torch.int64, device=device)
    done: list[ImageDetections] = []
    skipped: list[Skipped] = []
    with evaluating(detector.model) as network, _scores_above(network, threshold):
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            images, unread = _read(batch, network)
            skipped += unread
            for (path, image), raw in zip(images.items(), _detect(network, images.values(), labels), strict=True):
                number = len(done) + 1
                results = _results(network, raw, number, detector.category_ids)
                done.append(ImageDetections(path, number, image.height, image.width, results))
                show(image, done[-1])
            progress(len(batch))
    categories = dict(zip(detector.category_ids, detector.names(), strict=True))
    return Detections(tuple(done), tuple(skipped), categories)


def _labels(names: Sequence[str], classes: Sequence[str] | None) -> list[int]:
    """Return the labels of the classes, from 1."""
    for name in classes or ():
        if name not in names:
            raise unknown("class", name, names)
    return [label for label, name in enumerate(names, start=1) if classes is None or name in classes]


@contextmanager
def _scores_above(network: nn.Module, threshold: float) -> Generator[None]:
    """Set the score threshold of the heads temporarily, which avoids masks for other detections.

    The detections are the same as if filtered afterwards: non-maximum suppression depends only on higher scores.
    """
    heads = [module for module in network.modules() if isinstance(module, RoIHeads)]
    before = [module.score_thresh for module in heads]
    try:
        for module in heads:
            module.score_thresh = threshold
        yield
    finally:
        for module, own in zip(heads, before, strict=True):
            module.score_thresh = own


def _read(paths: Iterable[Path], network: Any) -> tuple[dict[Path, Image.Image], list[Skipped]]:
    images: dict[Path, Image.Image] = {}
    skipped: list[Skipped] = []
    for path in paths:
        try:
            images[path] = read_image(path, network)
        except ImageError as error:
            skipped.append(Skipped(str(path), error.reason))
    return images, skipped


def read_image(path: Path, network: Any) -> Image.Image:
    """Read an image file for a detector.

    Args:
        path: image file.
        network: the detector.

    Returns:
        The image, RGB.

    Raises:
        ImageError: the file cannot be read, or the image is so narrow that the resizing of torchvision would leave no
            pixel.
    """
    image, long = open_image(path), network.transform.max_size
    if not isinstance(network.transform, RoundedTransform) and min(image.size) * long <= max(image.size):
        raise ImageError(path, f"{image.width}x{image.height} pixels, too narrow to be resized to a side of {long}")
    return image


def _detect(network: Any, images: Iterable[Image.Image], labels: Int[Tensor, " classes"]) -> list[RawDetections]:
    """Detect objects of the given classes, without pasting masks."""
    every = detect(network, [image_to_tensor(image).to(labels.device) for image in images])
    kept = [torch.isin(raw.values["labels"], labels) for raw in every]
    return [
        raw._replace(values={name: value[keep] for name, value in raw.values.items()})
        for raw, keep in zip(every, kept, strict=True)
    ]


def _results(
    network: Any, detections: RawDetections, image_id: int, category_ids: Sequence[int]
) -> tuple[dict[str, Any], ...]:
    """Return the detections of an image with their areas."""
    results = pasted_results(network, detections, image_id, category_ids)
    return tuple({**result, "area": _area(result, *detections.original)} for result in results)


def _area(result: dict[str, Any], height: int, width: int) -> float:
    """Return the area of the mask in pixels, or of the box if there is no mask."""
    if "segmentation" in result:
        return extent(result["segmentation"], height, width)[0]
    return result["bbox"][2] * result["bbox"][3]
