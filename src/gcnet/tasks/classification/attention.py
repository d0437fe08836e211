"""Attention of a classifier: maps of image files, and statistics over a data set."""

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path

from torch import Tensor, nn

from gcnet.analysis.capture import capture, describe_unread
from gcnet.analysis.readers import Adapter
from gcnet.data.coco.open import is_coco
from gcnet.data.dataset import ClassificationDataset, Skipped
from gcnet.data.decode import open_image
from gcnet.data.images.open import open_evaluation
from gcnet.data.loader import build_loader
from gcnet.data.sampler import EvaluationSampler
from gcnet.data.settings import BUILT_IN, Preprocessing
from gcnet.data.transforms import Normalize, build_eval_transform, crop_region, image_pixels, resize_and_crop
from gcnet.errors import UserError
from gcnet.models.outputs import check_classifier, evaluating
from gcnet.progress_bar import progress_bar
from gcnet.tasks.classification.trained import TrainedClassifier, find_preprocessing
from gcnet.tasks.loaded import LoadedModel
from gcnet.tasks.results import AttentionReader, MeasuredImages
from gcnet.tasks.settings import AnalyzeSettings
from gcnet.training.checksums import describe_labeled
from gcnet.training.distributed import Processes
from gcnet.visualization.attention_maps import ImageMaps, layer_maps

_BATCH_SIZE = 8
_logger = logging.getLogger(__name__)


def attention_reader(loaded: LoadedModel, settings: AnalyzeSettings) -> AttentionReader:
    """Return the function that computes attention maps of image files for a classifier.

    Args:
        loaded: a `TrainedClassifier` on its device.
        settings: settings of the analysis.

    Raises:
        UserError: the network has no preprocessing.
    """
    network = loaded.trained
    assert isinstance(network, TrainedClassifier)
    preprocessing = find_preprocessing(network, settings.preprocessing, settings.weights or settings.model)
    check_classifier(network.model, preprocessing.image_size, network.num_classes)
    _logger.info("preprocessing: %s", preprocessing)
    names = [f"predicted {name}" for name in network.names()]
    return AttentionReader(partial(attention_of_image, network, preprocessing=preprocessing), names)


def attention_of_image(
    network: TrainedClassifier,
    path: Path,
    preprocessing: Preprocessing,
    *,
    adapters: Mapping[type[nn.Module], Adapter] | None = None,
) -> ImageMaps:
    """Compute attention maps and channel gates of a classifier for an image file.

    Args:
        network: the classifier.
        path: image file.
        preprocessing: preprocessing of the image.
        adapters: readers for custom attention modules, by module type.

    Returns:
        Maps of every layer, and the predicted class with its probability.

    Raises:
        ImageError: the file cannot be read.
        UserError: the outputs of the network are not finite.
    """
    whole = open_image(path, bit_depth=preprocessing.bit_depth)
    image = resize_and_crop(whole, preprocessing)
    pixels = Normalize(preprocessing.mean, preprocessing.std)(image_pixels(image)[None])
    device = next(network.model.parameters()).device
    with evaluating(network.model), capture(network.model, adapters=adapters) as captured:
        scores = network.model(pixels.to(device))[0].float().softmax(0)
    if not bool(scores.isfinite().all()):
        raise UserError(f'the network\'s outputs must be finite numbers; those for "{path}" are not')
    label = int(scores.argmax())
    answer = f"{network.names()[label]} {scores[label]:.0%}"
    layers = layer_maps(network.model, captured.attention)
    unread = describe_unread(network.model, captured.unread)
    region = crop_region(whole.size, preprocessing)
    return ImageMaps(path, image, label, answer, layers, tuple(captured.gates), unread, region)


class LabeledImages(MeasuredImages):
    """Batches of labeled images for attention statistics.

    Args:
        loaded: a `TrainedClassifier` on its device.
        settings: settings of the analysis.
        processes: processes that share the images.

    Raises:
        UserError: the data do not exist or are COCO annotations.
    """

    def __init__(self, loaded: LoadedModel, settings: AnalyzeSettings, processes: Processes) -> None:
        network = loaded.trained
        assert isinstance(network, TrainedClassifier)
        if settings.data not in BUILT_IN and is_coco(settings.data or ""):
            raise UserError(f"`data` takes images of classes, but {settings.data} is in COCO's format, for detectors")
        given = settings.data_settings(network.preprocessing.image_size if network.preprocessing else None)
        source, preprocessing = open_evaluation(given, settings.seed, preprocessing=network.preprocessing)
        for note in source.notes if processes.first else ():
            _logger.warning(note)
        processes.require_same(lambda: describe_labeled(source))
        samples = ClassificationDataset(source, build_eval_transform(preprocessing))
        self.batch_size = size = settings.batch_size or _BATCH_SIZE
        sampler = EvaluationSampler(len(source), batch_size=size, rank=processes.rank, world=processes.world)
        self._loader = build_loader(samples, sampler, image_size=preprocessing.image_size)
        self._total = len(source)
        self.model, self.classes = network.model, source.classes
        self.labels: list[int] = []
        self.skipped: list[Skipped] = []
        self.worked = 0
        self.batches: list[int] = []
        self._processes = processes

    def images(self) -> Iterator[Tensor]:
        device = next(self.model.parameters()).device
        with progress_bar("images", self._total, shown=self._processes.first) as progress:
            for number, batch in zip(count(self._processes.rank, self._processes.world), self._loader, strict=False):
                self.labels = batch.labels.tolist()
                self.skipped += batch.skipped
                self.worked += len(batch)
                if len(batch):
                    self.batches.append(number)
                    yield batch.inputs(device)
                progress(len(batch) + len(batch.skipped))
