"""Detections for image files."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from gcnet.errors import UserError, unknown
from gcnet.models.detector.transform import RoundedTransform
from gcnet.models.outputs import evaluating
from gcnet.tasks.detection.inference import Found, detect, pasted_results
from gcnet.tasks.trained import TrainedDetector


@dataclass(frozen=True)
class Detected:
    """What was found in one image.

    Attributes:
        path: the file.
        image_id: from 1, in the order of the images that could be read.
        height: pixels of the image, upright.
        width: likewise.
        results: in COCO's result format (`gcnet.tasks.detection.metrics.coco_results`), the best first, each also
            with the `area` of its mask in pixels, or of its box if the detector predicts no masks.
    """

    path: Path
    image_id: int
    height: int
    width: int
    results: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Detections:
    """What `detect_images` found: the images in the order of the files, the files skipped, class names by category."""

    images: tuple[Detected, ...]
    skipped: tuple[Skipped, ...]
    categories: dict[int, str]

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
