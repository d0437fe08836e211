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
from gcnet.tasks.detection.inference import Found, detect, pasted_results
from gcnet.tasks.detection.trained import TrainedDetector, describe_resizing
from gcnet.tasks.results import PredictionResult
from gcnet.tasks.settings import PredictSettings
from gcnet.visualization.detections import draw_detections, picture_names
from gcnet.visualization.images import encode_jpeg

THRESHOLD = 0.5
BATCH_SIZE = 1
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Detected:
    """The objects of one image.

    Attributes:
        path: the file.
        image_id: from 1, in the order of the images that could be read.
        height: pixels of the image, upright.
        width: likewise.
        results: in COCO's result format (`gcnet.tasks.detection.coco_metrics.coco_results`), the best first, each also
            with the `area` of its mask in pixels, or of its box if the detector predicts no masks.
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
        images: the objects of each image, in the order of the files.
        skipped: files that could not be read.
        categories: class names by category id.
        figures: description of the pictures written, empty if none were.
    """

    images: tuple[Detected, ...]
    categories: dict[int, str]

    def __str__(self) -> str:
        """A row for each image: the number of objects, the best score, and the objects by class."""
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
        """A row for each object: image, class, score and box in pixels; the names of the columns before them."""
        yield "image", "class", "score", "left", "top", "width", "height"
        for image in self.images:
            for result in image.results:
                box = (f"{value:.2f}" for value in result["bbox"])
                yield image.path, self.categories[result["category_id"]], f"{result['score']:.6f}", *box

    def to_dict(self) -> dict[str, Any]:
        """The detections as plain JSON values, laid out as a file of COCO annotations, which COCO's API reads.

        `images` holds `id`, `file_name` (the path), `width` and `height` of each image; `categories` the `id` and
        `name` of each class; `annotations` the detections: `id` (from 1), `image_id`, `category_id`, `bbox` (left, top,
        width and height in pixels), `score` (0 to 1), `segmentation` (`size`, height and width, and `counts`, COCO's
        compressed run lengths as text; absent if the detector predicts no masks), `area` (pixels of the mask, or of
        the box) and `iscrowd` (0). The annotations alone are a list in COCO's result format. `images_skipped`
        counts and `skipped` names the files that could not be used.
        """
        images = [
            {"id": one.image_id, "file_name": str(one.path), "width": one.width, "height": one.height}
            for one in self.images
        ]
        results = [result for one in self.images for result in one.results]
        return {
            "images": images,
            "categories": [{"id": identity, "name": name} for identity, name in self.categories.items()],
            "annotations": [{"id": number, **result, "iscrowd": 0} for number, result in enumerate(results, start=1)],
            "images_skipped": len(self.skipped),
            "skipped": [{"name": skipped.name, "reason": skipped.reason} for skipped in self.skipped],
        }


def predict(loaded: LoadedModel, paths: Sequence[Path], settings: PredictSettings) -> Detections:
    """Detect objects in image files, and write the pictures of `settings.output`.

    Args:
        loaded: a `TrainedDetector` on its device.
        paths: of the images.
        settings: of the prediction.

    Returns:
        The detections and the skipped files.

    Raises:
        UserError: an unknown class, `output` is no folder or that of the images, or pictures exist already.
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
            batch_size=settings.batch_size or BATCH_SIZE,
            show=pictures,
            progress=progress,
        )
    if settings.output is None or not detections.images:
        return detections
    return replace(detections, figures=f"pictures of the images with their objects: {settings.output}")


def _check_output(settings: PredictSettings, paths: Sequence[Path]) -> None:
    """Refuse a file in place of the folder of pictures, and the folder of the images, whose pictures would be taken
    for images by the next prediction.
    """
    output = settings.output
    if output is None:
        return
    if not output.is_dir() and (output.exists() or output.suffix.lower() in (".png", ".jpg", ".jpeg")):
        raise UserError(f"`output` of a detector is a folder for a picture of each image, found {output}")
    if os.path.realpath(output) in {os.path.realpath(path.parent) for path in paths}:
        raise UserError(
            f"`output` must be another folder than that of the images, found {printable(output)}: its pictures would "
            "be taken for images"
        )


class _Pictures:
    """Writes a picture of each image and its objects into a folder, if there is one."""

    def __init__(self, detector: TrainedDetector, paths: Sequence[Path], settings: PredictSettings) -> None:
        self._folder = folder = settings.output
        self._labels = settings.labels or "auto"
        self._classes = dict(zip(detector.category_ids, detector.names(), strict=True))
        self._names = {} if folder is None else picture_names(paths, folder)

    def files(self) -> list[Path]:
        """The files that it writes."""
        return [] if self._folder is None else [self._folder / name for name in self._names.values()]

    def __call__(self, image: Image.Image, detected: Detected) -> None:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            picture = draw_detections(image, detected.results, self._classes, labels=self._labels)
            write_atomic(self._folder / self._names[detected.path], encode_jpeg(picture))


def detect_images(
    detector: TrainedDetector,
    paths: Sequence[Path],
    *,
    threshold: float = 0.5,
    classes: Sequence[str] | None = None,
    batch_size: int = 1,
    show: Callable[[Image.Image, Detected], None] = lambda *_: None,
    progress: Callable[[int], None] = lambda _: None,
) -> Detections:
    """Find objects in image files; a file that cannot be read is skipped and named, never replaced.

    Memory stays bounded: masks of 28 x 28 pixels become masks of the image only for what is kept, a few at a time.

    Args:
        detector: on any device.
        paths: of the images.
        threshold: objects with a score above this are kept, 0 to 1.
        classes: names of the classes to keep (default: all).
        batch_size: images that the network gets at a time; they are padded to one size, which changes scores slightly.
        show: called with each image (RGB) and what was found in it.
        progress: called with the number of files done since its last call.

    Raises:
        UserError: an unknown class, or a threshold that is no score.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"a threshold of scores is from 0 to 1, found {threshold}")
    device = next(detector.model.parameters()).device
    labels = torch.tensor(_labels(detector.names(), classes), dtype=torch.int64, device=device)
    done: list[Detected] = []
    skipped: list[Skipped] = []
    with evaluating(detector.model) as network, _scores_above(network, threshold):
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            images, unread = _read(batch, network)
            skipped += unread
            for (path, image), found in zip(images.items(), _detect(network, images.values(), labels), strict=True):
                number = len(done) + 1
                results = _results(network, found, number, detector.category_ids)
                done.append(Detected(path, number, image.height, image.width, results))
                show(image, done[-1])
            progress(len(batch))
    categories = dict(zip(detector.category_ids, detector.names(), strict=True))
    return Detections(tuple(done), tuple(skipped), categories)


def _labels(names: Sequence[str], classes: Sequence[str] | None) -> list[int]:
    """The labels of these classes, from 1."""
    for name in classes or ():
        if name not in names:
            raise unknown("class", name, names)
    return [label for label, name in enumerate(names, start=1) if classes is None or name in classes]


@contextmanager
def _scores_above(network: nn.Module, threshold: float) -> Generator[None]:
    """The heads keep scores above this one, and find masks for no others; on leaving, their own threshold is back.

    What is kept is the same as if it were chosen from all afterwards: the heads suppress by better scores only.
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
    """The image in a file, RGB, for a detector.

    Raises:
        ImageError: the file cannot be read, or torchvision's resizing, which rounds down, would leave the image without
            a pixel; ours keeps one.
    """
    image, long = open_image(path), network.transform.max_size
    if not isinstance(network.transform, RoundedTransform) and min(image.size) * long <= max(image.size):
        raise ImageError(path, f"{image.width}x{image.height} pixels, too narrow to be resized to a side of {long}")
    return image


def _detect(network: Any, images: Iterable[Image.Image], labels: Int[Tensor, " classes"]) -> list[Found]:
    """The objects of some classes in each image, their masks not pasted yet."""
    found = detect(network, [image_to_tensor(image).to(labels.device) for image in images])
    kept = [torch.isin(one.values["labels"], labels) for one in found]
    return [
        one._replace(values={name: value[keep] for name, value in one.values.items()})
        for one, keep in zip(found, kept, strict=True)
    ]


def _results(network: Any, found: Found, image_id: int, category_ids: Sequence[int]) -> tuple[dict[str, Any], ...]:
    """The objects of an image as results with their areas."""
    results = pasted_results(network, found, image_id, category_ids)
    return tuple({**one, "area": _area(one, *found.original)} for one in results)


def _area(result: dict[str, Any], height: int, width: int) -> float:
    """Pixels of a result's mask; of its box if it has no mask."""
    if "segmentation" in result:
        return extent(result["segmentation"], height, width)[0]
    return result["bbox"][2] * result["bbox"][3]
