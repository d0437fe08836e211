"""Predicts the classes of image files."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from gcnet.data.dataset import Skipped
from gcnet.data.decode import ImageError, open_image
from gcnet.data.images.probe import unused_depth_note
from gcnet.data.images.sources import FileImages, evenly_spread
from gcnet.data.settings import Preprocessing
from gcnet.data.transforms import build_eval_transform
from gcnet.errors import UserError, printable
from gcnet.models.outputs import check_classifier, class_scores, evaluating
from gcnet.progress_bar import progress_bar
from gcnet.tasks.base import LoadedModel
from gcnet.tasks.classification.trained import TrainedClassifier, find_preprocessing
from gcnet.tasks.results import PredictionResult
from gcnet.tasks.settings import PredictSettings
from gcnet.visualization.images import contact_sheet
from gcnet.visualization.style import figure_caption

SHEET_IMAGES = 60
TOP = 5
_BATCH_SIZE = 32
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image.

    Attributes:
        path: image file.
        classes: class names with their softmax probabilities, 0 to 1, the most probable first.
    """

    path: Path
    classes: tuple[tuple[str, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as JSON values."""
        classes = [{"class": name, "probability": probability} for name, probability in self.classes]
        return {"path": str(self.path), "classes": classes}


@dataclass(frozen=True)
class Predictions(PredictionResult):
    """Result of `gcnet.predict` for a classifier.

    Attributes:
        images: prediction of each image, in the order of the files.
    """

    images: tuple[Prediction, ...]

    def __str__(self) -> str:
        """Return a table with the most probable classes of each image."""
        if not self.images:
            return ""
        names = [printable(image.path) for image in self.images]
        width = max(map(len, names))
        column = max(5, *(len(printable(name)) for image in self.images for name, _ in image.classes))
        ranks = range(1, len(self.images[0].classes) + 1)
        head = "".join(f"  {f'top {rank}':<{column}}  {'prob.':>6}" for rank in ranks)
        lines = [f"{'image':<{width}}{head}"]
        for name, image in zip(names, self.images, strict=True):
            cells = (f"  {printable(label):<{column}}  {probability:>6.1%}" for label, probability in image.classes)
            lines.append(f"{name:<{width}}{''.join(cells)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {
            "images": [prediction.to_dict() for prediction in self.images],
            "images_skipped": len(self.skipped),
            "skipped": [{"name": skipped.name, "reason": skipped.reason} for skipped in self.skipped],
        }

    def rows(self) -> Iterator[Sequence[object]]:
        """Yield the column names, then a row for each image and class, the most probable class first."""
        yield "image", "class", "probability"
        for image in self.images:
            for name, probability in image.classes:
                yield image.path, name, f"{probability:.6f}"


def predict(loaded: LoadedModel, paths: Sequence[Path], settings: PredictSettings) -> Predictions:
    """Classify image files, and write a contact sheet to `settings.output`.

    Args:
        loaded: a `TrainedClassifier` on its device.
        paths: image files.
        settings: settings of the prediction.

    Returns:
        The predictions and the skipped files.

    Raises:
        UserError: the network has no preprocessing, `output` is not a PNG file, or an output of the network is not
            finite.
    """
    network = loaded.trained
    assert isinstance(network, TrainedClassifier)
    if settings.output is not None and settings.output.suffix.lower() != ".png":
        raise UserError(f"`output` of a classifier is a PNG file whose name ends in .png, found {settings.output}")
    preprocessing = find_preprocessing(network, settings.preprocessing, settings.weights or settings.model)
    check_classifier(network.model, preprocessing.image_size, network.num_classes)
    images = FileImages(Path(), [str(path) for path in paths], [0] * len(paths), ["unknown"])
    if note := unused_depth_note(images, preprocessing.bit_depth):
        _logger.warning(note)
    _logger.info("preprocessing: %s", preprocessing)
    with progress_bar("images", len(paths)) as progress:
        predictions = predict_images(
            network,
            paths,
            preprocessing=preprocessing,
            top=settings.topk or TOP,
            batch_size=settings.batch_size or _BATCH_SIZE,
            device=next(network.model.parameters()).device,
            progress=progress,
        )
    if settings.output is None or not predictions.images:
        return predictions
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    folders = ", ".join(dict.fromkeys(path.resolve().parent.name for path in paths))
    caption = figure_caption(folders, loaded.title, f"{len(predictions.images):,} images")
    shown = draw_predictions(predictions.images, settings.output, caption=caption)
    return replace(
        predictions, figures=f"contact sheet of {shown} of {len(predictions.images)} images: {settings.output}"
    )


def predict_images(
    network: TrainedClassifier,
    paths: Sequence[Path],
    *,
    preprocessing: Preprocessing,
    top: int = 5,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Classify image files; unreadable files are skipped.

    Args:
        network: the classifier.
        paths: image files.
        preprocessing: preprocessing of the images.
        top: number of classes per image, at least 1.
        batch_size: images per forward pass.
        device: device of the network.
        progress: called with the number of files of each batch.

    Returns:
        The predictions in the order of the files, and the skipped files.

    Raises:
        UserError: an output of the network is not finite.
    """
    transform = build_eval_transform(preprocessing)
    done: list[Prediction] = []
    skipped: list[Skipped] = []
    with evaluating(network.model):
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            tensors: dict[Path, Tensor] = {}
            for path in batch:
                try:
                    tensors[path] = transform(open_image(path, bit_depth=preprocessing.bit_depth))
                except ImageError as error:
                    skipped.append(Skipped(str(path), error.reason))
            if tensors:
                scores = class_scores(network.model, torch.stack(list(tensors.values())), device=device)
                done += [_best(path, row, network.names(), top) for path, row in zip(tensors, scores, strict=True)]
            if progress is not None:
                progress(len(batch))
    return Predictions(tuple(done), tuple(skipped))


def _best(path: Path, scores: Tensor, names: Sequence[str], top: int) -> Prediction:
    if not bool(scores.isfinite().all()):
        raise UserError(f'the network\'s outputs must be finite numbers; those for "{path}" are not')
    values, labels = scores.softmax(0).topk(min(top, len(names)))
    return Prediction(
        path, tuple((names[label], value) for label, value in zip(labels.tolist(), values.tolist(), strict=True))
    )


def draw_predictions(predictions: Sequence[Prediction], path: Path, *, caption: str = "") -> int:
    """Write a contact sheet of images with file names and the two most probable classes.

    Args:
        predictions: of the images; at most `SHEET_IMAGES` are drawn, evenly spread.
        path: PNG file.
        caption: small text below, from `gcnet.visualization.style.figure_caption`.

    Returns:
        Number of images drawn.
    """
    shown = evenly_spread(predictions, SHEET_IMAGES)
    titles = [
        "\n".join([item.path.name, *(f"{name} {100 * probability:.0f} %" for name, probability in item.classes[:2])])
        for item in shown
    ]
    contact_sheet([_thumbnail(item.path) for item in shown], titles, path, caption=caption)
    return len(shown)


def _thumbnail(path: Path) -> Image.Image:
    """Read an image at reduced size, to save memory."""
    image = open_image(path)
    image.thumbnail((400, 400))
    return image
