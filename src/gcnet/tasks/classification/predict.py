"""Predicts the classes of image files."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from PIL import Image
from torch import Tensor

from gcnet.data.dataset import Skipped
from gcnet.data.images.find_inputs import InputImages
from gcnet.data.images.image_input import ImageInput
from gcnet.data.images.inputs import Images
from gcnet.data.images.probe import unused_depth_note
from gcnet.data.settings import Preprocessing, PreprocessingSettings
from gcnet.data.transforms import build_eval_transform
from gcnet.errors import UserError
from gcnet.models.outputs import check_classifier, class_scores
from gcnet.progress_bar import progress_bar
from gcnet.tasks.batch_size import BatchSize
from gcnet.tasks.classification.predictions import TOP, Prediction, Predictions, draw_predictions
from gcnet.tasks.classification.trained import TrainedClassifier, find_preprocessing
from gcnet.tasks.loaded import LoadedModel
from gcnet.tasks.predictor import Inference, Predictor
from gcnet.tasks.settings import PredictSettings
from gcnet.training.distributed import ALONE, Processes

_OWN = PreprocessingSettings()
_logger = logging.getLogger(__name__)


class ClassPredictor(Predictor):
    """A classifier that is called with images.

    Args:
        network: the classifier on its device, in eval mode.
        origin: model file, run folder or name, as given by the user.
        inference: precision, fusion and compilation.
        preprocessing: preprocessing of the images.
    """

    default_batch_size = 32
    record_types: ClassVar[Mapping[str, Any]] = {"classes": [{"class": str, "probability": float}]}

    def __init__(
        self, network: TrainedClassifier, origin: str, inference: Inference, *, preprocessing: Preprocessing
    ) -> None:
        super().__init__(network.model, origin, inference)
        self.preprocessing, self.names = preprocessing, network.names()
        self._transform = build_eval_transform(preprocessing)
        self._bit_depth = preprocessing.bit_depth

    def __call__(
        self,
        images: Images,
        *,
        topk: int = TOP,
        batch_size: BatchSize = None,
        progress: Callable[[int], None] = lambda _: None,
        processes: Processes = ALONE,
    ) -> Predictions:
        """Predict the classes of images.

        Args:
            images: an image or several: files, folders, PIL images, arrays or tensors; see
                `gcnet.data.images.inputs.image_inputs`.
            topk: number of classes per image, at least 1.
            batch_size: images per forward pass (default: 32); "auto" is the largest that fits in memory, by trial.
            progress: called with the number of images of each batch.
            processes: processes that share the images; all of them get all predictions.

        Returns:
            The predictions in the order of the images, and the skipped files.

        Raises:
            UserError: a file does not exist, an array or tensor is not an image, the network does not run on images of
                this size, or an output is not finite.
        """
        if topk < 1:
            raise UserError(f"`topk` must be at least 1, found {topk}")
        return cast(
            Predictions, self._call(images, topk, batch_size=batch_size, progress=progress, processes=processes)
        )

    def _prepared(self, image: Image.Image) -> Tensor:
        """The input of the network: of photos, a batch would need gigabytes."""
        return self._transform(image)

    def _predict(self, images: Sequence[tuple[ImageInput, Tensor]], options: int) -> list[Prediction]:
        batch = torch.stack([image for _, image in images])
        scores = self._scores(batch)
        return [self._best(item, row, options) for (item, _), row in zip(images, scores, strict=True)]

    def _scores(self, batch: Tensor) -> Tensor:
        try:
            scores = class_scores(self._network(), batch, device=self.device, autocast=self.autocast)
        except Exception:
            self._check_size()  # slow in a new process, and needed only for the reason
            raise
        if scores.shape[1] != len(self.names):
            self._check_size()
        return scores

    def _check_size(self) -> None:
        check_classifier(self.model, self.preprocessing.image_size, len(self.names))

    def _best(self, item: ImageInput, scores: Tensor, top: int) -> Prediction:
        if not bool(scores.isfinite().all()):
            raise UserError(f'the network\'s outputs must be finite numbers; those for "{item.name}" are not')
        values, labels = scores.softmax(0).topk(min(top, len(self.names)))
        pairs = zip(labels.tolist(), values.tolist(), strict=True)
        return Prediction(item, tuple((self.names[label], value) for label, value in pairs))

    def _result(self, predictions: tuple[Any, ...], skipped: tuple[Skipped, ...]) -> Predictions:
        return Predictions(predictions, skipped)


def open_predictor(
    loaded: LoadedModel, inference: Inference, preprocessing: PreprocessingSettings = _OWN
) -> ClassPredictor:
    """Return the predictor of a classifier.

    Args:
        loaded: a `TrainedClassifier` on its device.
        inference: precision, fusion and compilation.
        preprocessing: overrides the preprocessing of the network.

    Raises:
        UserError: the network has no preprocessing.
    """
    network = loaded.trained
    assert isinstance(network, TrainedClassifier)
    chosen = find_preprocessing(network, preprocessing, loaded.weights)
    return ClassPredictor(network, loaded.origin, inference, preprocessing=chosen)


def configured_predictor(loaded: LoadedModel, settings: PredictSettings) -> tuple[ClassPredictor, dict[str, Any]]:
    """Return the predictor of a classifier for `gcnet predict`, and the options of its calls.

    Args:
        loaded: a `TrainedClassifier` on its device.
        settings: settings of the prediction.

    Raises:
        UserError: the network has no preprocessing.
    """
    predictor = open_predictor(loaded, Inference.of(settings), settings.preprocessing)
    return predictor, {"topk": settings.topk or TOP, "batch_size": settings.batch_size}


def predict(
    loaded: LoadedModel, images: Sequence[ImageInput], settings: PredictSettings, processes: Processes
) -> Predictions:
    """Classify image files, and write a contact sheet to `settings.output`.

    Args:
        loaded: a `TrainedClassifier` on its device.
        images: image files.
        settings: settings of the prediction.
        processes: processes that share the images; the first writes the contact sheet.

    Returns:
        The predictions and the skipped files.

    Raises:
        UserError: the network has no preprocessing or does not run on images of this size, `output` is not a PNG file,
            or an output is not finite.
    """
    if settings.output is not None and settings.output.suffix.lower() != ".png":
        raise UserError(
            "`output` of a classifier takes a .png file (contact sheet), or a .jsonl or .parquet file (records), found "
            f"{settings.output}"
        )
    predictor, options = configured_predictor(loaded, settings)
    preprocessing = predictor.preprocessing
    if processes.first:
        if note := unused_depth_note(InputImages(images), preprocessing.bit_depth):
            _logger.warning(note)
        _logger.info("preprocessing: %s", preprocessing)
    with progress_bar("images", len(images), shown=processes.first) as progress:
        predictions = predictor(images, **options, progress=progress, processes=processes)
    if settings.output is None or not predictions.images or not processes.first:
        return predictions
    from gcnet.visualization.style import figure_caption, folder_title

    settings.output.parent.mkdir(parents=True, exist_ok=True)
    caption = figure_caption(
        folder_title(image.name for image in images), loaded.title, f"{len(predictions.images):,} images"
    )
    shown = draw_predictions(predictions.images, settings.output, caption=caption)
    return replace(
        predictions, figures=f"contact sheet of {shown} of {len(predictions.images)} images: {settings.output}"
    )
