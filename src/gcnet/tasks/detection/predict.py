"""Detects objects in image files."""

import copy
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from PIL import Image
from torch import Tensor, nn

from gcnet.data.coco.loading import image_to_tensor
from gcnet.data.coco.masks import extent
from gcnet.data.dataset import Skipped
from gcnet.data.decode import ImageError
from gcnet.data.images.image_input import ImageInput
from gcnet.data.images.inputs import Images
from gcnet.errors import UserError, printable, unknown
from gcnet.models.detector.heads import limit_detections
from gcnet.models.detector.transform import RoundedTransform
from gcnet.progress_bar import progress_bar
from gcnet.storage import write_atomic
from gcnet.tasks.batch_size import BatchSize
from gcnet.tasks.detection.inference import RawDetections, detect, largest_images, of_classes, pasted_results
from gcnet.tasks.detection.predictions import Detections, ImageDetections
from gcnet.tasks.detection.trained import TrainedDetector, describe_resizing
from gcnet.tasks.loaded import LoadedModel
from gcnet.tasks.predictor import Inference, Predictor
from gcnet.tasks.settings import PredictSettings
from gcnet.training.distributed import ALONE, Processes

THRESHOLD = 0.5
_logger = logging.getLogger(__name__)


def configured_predictor(loaded: LoadedModel, settings: PredictSettings) -> "tuple[ObjectPredictor, dict[str, Any]]":
    """Return the predictor of a detector for `gcnet predict`, and the options of its calls.

    Args:
        loaded: a `TrainedDetector` on its device; its number of detections per image is set.
        settings: settings of the prediction.
    """
    detector = loaded.trained
    assert isinstance(detector, TrainedDetector)
    if settings.detections_per_image is not None:
        limit_detections(detector.model, settings.detections_per_image)
    return ObjectPredictor(detector, loaded.origin, Inference.of(settings)), {
        "threshold": THRESHOLD if settings.threshold is None else settings.threshold,
        "classes": None if settings.classes is None else [name.strip() for name in settings.classes.split(",")],
        "batch_size": settings.batch_size,
    }


def predict(
    loaded: LoadedModel, images: Sequence[ImageInput], settings: PredictSettings, processes: Processes
) -> Detections:
    """Detect objects in image files, and write annotated images to `settings.output`.

    Args:
        loaded: a `TrainedDetector` on its device.
        images: image files.
        settings: settings of the prediction.
        processes: processes that share the images; each writes the pictures of its share.

    Returns:
        The detections and the skipped files.

    Raises:
        UserError: a class is unknown, `output` is not a folder or is the folder of the images, or an output file
            exists.
    """
    predictor, options = configured_predictor(loaded, settings)
    paths = [Path(image.name) for image in images]
    processes.by_first(lambda: _check_output(settings, paths))
    pictures = _Pictures(paths, settings)
    processes.by_first(pictures.refuse_existing)
    if processes.first:
        _logger.info("images: %s", describe_resizing(predictor.model))
    with progress_bar("images", len(paths), shown=processes.first) as progress:
        detections = predictor(images, **options, show=pictures, progress=progress, processes=processes)
    if settings.output is None or not detections.images:
        return detections
    return replace(detections, figures=f"annotated images in {settings.output}")


def _check_output(settings: PredictSettings, paths: Sequence[Path]) -> None:
    """Refuse an output that is a file, or the folder of the images, where the next prediction would read it."""
    output = settings.output
    if output is None:
        return
    if not output.is_dir() and (output.exists() or output.suffix.lower() in (".png", ".jpg", ".jpeg")):
        raise UserError(
            "`output` of a detector takes a folder (annotated images), or a .jsonl or .parquet file (records), found "
            f"{output}"
        )
    if os.path.realpath(output) in {os.path.realpath(path.parent) for path in paths}:
        raise UserError(
            f"`output` must be another folder than that of the images, found {printable(output)}, where its pictures "
            "would be read as images"
        )


class _Pictures:
    """Writes annotated images into a folder, if there is one."""

    def __init__(self, paths: Sequence[Path], settings: PredictSettings) -> None:
        self._folder = folder = settings.output
        self._settings, self._labels = settings, settings.labels or "auto"
        from gcnet.visualization.detections import picture_names

        self._names = {} if folder is None else picture_names(paths, folder)

    def refuse_existing(self) -> None:
        """Refuse to replace annotated images without `overwrite`."""
        for name in self._names.values():
            if self._folder is not None and (self._folder / name).exists():
                self._settings.refuse_existing("output", self._folder / name)

    def __call__(self, image: Image.Image, detections: ImageDetections) -> None:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            from gcnet.visualization.detections import draw_detections
            from gcnet.visualization.images import encode_jpeg

            picture = draw_detections(image, detections.results, detections.categories, labels=self._labels)
            write_atomic(self._folder / self._names[Path(detections.source.name)], encode_jpeg(picture))


class ObjectPredictor(Predictor):
    """A detector that is called with images.

    Memory is bounded: masks are pasted into the image only for detections that are kept, a few at a time.

    Args:
        detector: the detector on its device, in eval mode.
        origin: model file, run folder or name, as given by the user.
        inference: precision, and fusion and compilation of the backbone.
    """

    default_batch_size = 1
    largest_batch_size = 8
    record_types: ClassVar[Mapping[str, Any]] = {
        "height": int,
        "width": int,
        "objects": [
            {"class": str, "score": float, "box": [float], "segmentation": {"size": [int], "counts": str}},
        ],
    }

    def __init__(self, detector: TrainedDetector, origin: str, inference: Inference) -> None:
        super().__init__(detector.model, origin, inference)
        self.names, self._category_ids = detector.names(), detector.category_ids
        self.categories = dict(zip(self._category_ids, self.names, strict=True))

    def __call__(
        self,
        images: Images,
        *,
        threshold: float = THRESHOLD,
        classes: Sequence[str] | None = None,
        batch_size: BatchSize = None,
        show: Callable[[Image.Image, ImageDetections], None] = lambda *_: None,
        progress: Callable[[int], None] = lambda _: None,
        processes: Processes = ALONE,
    ) -> Detections:
        """Detect the objects in images.

        Args:
            images: an image or several: files, folders, PIL images, arrays or tensors; see
                `gcnet.data.images.inputs.image_inputs`.
            threshold: minimum score, 0 to 1; a detection must exceed it.
            classes: names of the classes to keep (default: all).
            batch_size: images per forward pass (default: 1); they are padded to one size, which changes scores
                slightly. "auto" is the largest that fits in memory, by trial.
            show: called with each image (RGB) and its detections.
            progress: called with the number of images of each batch.
            processes: processes that share the images; all of them get all detections.

        Returns:
            The detections in the order of the images, and the skipped files.

        Raises:
            UserError: a file does not exist, an array or tensor is not an image, a class is unknown, or the threshold
                is out of range.
        """
        if not 0 <= threshold <= 1:
            raise UserError(f"`threshold` must be a score from 0 to 1, found {threshold}")
        labels = torch.tensor(_labels(self.names, classes), dtype=torch.int64, device=self.device)
        options = threshold, labels
        return cast(
            Detections,
            self._call(images, options, batch_size=batch_size, show=show, progress=progress, processes=processes),
        )

    def _predict(
        self, images: Sequence[tuple[ImageInput, Image.Image]], options: tuple[float, Tensor]
    ) -> list[ImageDetections]:
        threshold, labels = options
        tensors = [image_to_tensor(image).to(self.device) for _, image in images]
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            detected = detect(self._network(), tensors, threshold=threshold)
        detections = [of_classes(raw, labels) for raw in detected]
        return [
            ImageDetections(item, 0, image.height, image.width, self._results(raw), self.categories)
            for (item, image), raw in zip(images, detections, strict=True)
        ]

    def _results(self, raw: RawDetections) -> tuple[dict[str, Any], ...]:
        """The detections of an image with their areas; the number of the image is set at the end."""
        results = pasted_results(self.model, raw, 0, self._category_ids)
        return tuple({**result, "area": _area(result, *raw.original)} for result in results)

    def _result(self, predictions: tuple[Any, ...], skipped: tuple[Skipped, ...]) -> Detections:
        numbered = (image.with_number(number) for number, image in enumerate(predictions, start=1))
        return Detections(tuple(numbered), skipped, self.categories)

    def _check(self, item: ImageInput, image: Image.Image) -> None:
        require_resizable(image, item.path or item.name, self.model)

    def _largest_images(self, count: int) -> list[Image.Image]:
        return largest_images(self.model, count)

    @property
    def _accelerated_part(self) -> nn.Module:
        return cast(nn.Module, self.model.backbone)

    def _network(self) -> Any:
        network: Any = copy.copy(self.model)
        network._modules = dict(network._modules, backbone=self._copy())
        return network


def _labels(names: Sequence[str], classes: Sequence[str] | None) -> list[int]:
    """Return the labels of the classes, from 1."""
    for name in classes or ():
        if name not in names:
            raise unknown("class", name, names)
    return [label for label, name in enumerate(names, start=1) if classes is None or name in classes]


def require_resizable(image: Image.Image, name: str | Path, network: Any) -> None:
    """Check that an image is wide enough for a detector.

    Args:
        image: the image.
        name: its path or name, for errors.
        network: the detector.

    Raises:
        ImageError: the image is so narrow that the resizing of torchvision would leave no pixel.
    """
    long = network.transform.max_size
    if not isinstance(network.transform, RoundedTransform) and min(image.size) * long <= max(image.size):
        raise ImageError(name, f"{image.width}x{image.height} pixels, too narrow to be resized to a side of {long}")


def _area(result: dict[str, Any], height: int, width: int) -> float:
    """Return the area of the mask in pixels, or of the box if there is no mask."""
    if "segmentation" in result:
        return extent(result["segmentation"], height, width)[0]
    return result["bbox"][2] * result["bbox"][3]
