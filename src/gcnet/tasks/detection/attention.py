"""Attention of a detector's backbone: maps of image files, and statistics over a data set."""

import logging
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from gcnet.analysis.attention import Attention, Padding
from gcnet.analysis.capture import capture, describe_unread
from gcnet.data.coco.loading import DetectionDataset, build_detection_loader, image_to_tensor
from gcnet.data.coco.open import open_validation
from gcnet.data.dataset import Skipped
from gcnet.data.decode import open_image
from gcnet.data.sampler import EvaluationSampler
from gcnet.models.outputs import evaluating
from gcnet.progress_bar import progress_bar
from gcnet.tasks.detection.predict import require_resizable
from gcnet.tasks.detection.trained import TrainedDetector
from gcnet.tasks.loaded import LoadedModel
from gcnet.tasks.results import AttentionReader, MeasuredImages
from gcnet.tasks.settings import AnalyzeSettings
from gcnet.training.checksums import describe_annotated
from gcnet.training.distributed import Processes
from gcnet.visualization.attention_maps import ImageMaps, layer_maps
from gcnet.visualization.gates import ALL_IMAGES

_THRESHOLD = 0.5
_logger = logging.getLogger(__name__)


def attention_reader(loaded: LoadedModel) -> AttentionReader:
    """Return the function that computes attention maps of image files for `loaded`, a `TrainedDetector`."""
    detector = loaded.trained
    assert isinstance(detector, TrainedDetector)
    return AttentionReader(partial(attention_of_detector, detector), [ALL_IMAGES])


def attention_of_detector(detector: TrainedDetector, path: Path) -> ImageMaps:
    """Compute attention maps and channel gates of a detector's backbone for an image file.

    The detector pads the resized image on the right and at the bottom. Queries and keys in the padding are dropped;
    uniform attention has weight 1 at every key, including those in the padding. The caption counts the detections with
    a score above 0.5.

    Args:
        detector: the detector.
        path: image file.

    Returns:
        Maps of every layer, and the number of detections by class.

    Raises:
        ImageError: the file cannot be read, or the image is too narrow to be resized.
    """
    network: Any = detector.model
    device = next(network.parameters()).device
    with evaluating(network):
        image = open_image(path)
        require_resizable(image, path, network)
        batch, _ = network.transform([image_to_tensor(image).to(device)])
        height, width = batch.image_sizes[0]
        padding = Padding((height, width), tuple(batch.tensors.shape[-2:]))

        def inside(attention: Attention) -> Attention:
            return padding.without_keys(padding.without_queries(attention))

        with capture(network.backbone, keep=inside) as captured:
            features = network.backbone(batch.tensors)
        answer = _answer(detector, batch, features)
    layers = layer_maps(network.backbone, captured.attention)
    unread = describe_unread(network.backbone, captured.unread)
    return ImageMaps(path, image.resize((width, height)), 0, answer, layers, tuple(captured.gates), unread)


def _answer(detector: TrainedDetector, batch: Any, features: dict[str, Tensor]) -> str:
    """Count the detections by class, as in "2 cube, 1 ball"."""
    network: Any = detector.model
    proposals, _ = network.rpn(batch, features)
    objects = network.roi_heads(features, proposals, batch.image_sizes)[0][0]
    labels = objects["labels"][objects["scores"] > _THRESHOLD].tolist()
    counts = Counter(detector.names()[label - 1] for label in labels).most_common()
    return ", ".join(f"{count} {name}" for name, count in counts) or "no objects"


class AnnotatedImages(MeasuredImages):
    """Images for attention statistics, resized and padded by the detector, one per batch to keep the padding small.

    Args:
        loaded: a `TrainedDetector` on its device.
        settings: settings of the analysis.
        processes: processes that share the images.

    Raises:
        UserError: the data do not exist.
    """

    def __init__(self, loaded: LoadedModel, settings: AnalyzeSettings, processes: Processes) -> None:
        detector: Any = loaded.trained.model
        part = open_validation(settings.data_settings(), settings.seed)
        for note in part.reports() if processes.first else ():
            _logger.warning(note)
        processes.require_same(lambda: describe_annotated(part.images))
        self._images, self._transform, self.model = part.images, detector.transform, detector.backbone
        self._padding: Padding | None = None
        self.classes, self.labels = (ALL_IMAGES,), [0]
        self.skipped: list[Skipped] = []
        self.worked = 0
        self.batches: list[int] = []
        self.batch_size = 1
        self._processes = processes

    def images(self) -> Iterator[Tensor]:
        device = next(self.model.parameters()).device
        samples = DetectionDataset(self._images, with_objects=False)
        rank, world = self._processes.rank, self._processes.world
        order = EvaluationSampler(len(self._images), batch_size=self.batch_size, rank=rank, world=world)
        with progress_bar("images", len(self._images), shown=self._processes.first) as progress:
            for number, batch in zip(count(rank, world), build_detection_loader(samples, order), strict=False):
                self.skipped += batch.skipped
                for image in batch.to(device).images:
                    padded, _ = self._transform([image])
                    self._padding = Padding(padded.image_sizes[0], tuple(padded.tensors.shape[-2:]))
                    self.worked += 1
                    self.batches.append(number)
                    yield padded.tensors
                progress(1)

    def part(self, attention: Attention) -> Attention:
        assert self._padding is not None
        return self._padding.without_queries(attention)
