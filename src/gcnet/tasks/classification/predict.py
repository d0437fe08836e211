"""Predictions of a classifier for image files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from gcnet.data.dataset import Skipped
from gcnet.data.decode import ImageError, open_image
from gcnet.data.images.sources import evenly_spread
from gcnet.data.settings import Preprocessing
from gcnet.data.transforms import build_eval_transform
from gcnet.errors import UserError
from gcnet.models.outputs import class_scores, evaluating
from gcnet.tasks.trained import TrainedClassifier
from gcnet.visualization.images import contact_sheet

SHEET_IMAGES = 60


@dataclass(frozen=True)
class Prediction:
    """One image's most probable classes, best first, with their probabilities (softmax, 0 to 1)."""

    path: Path
    classes: tuple[tuple[str, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """The prediction as plain JSON values."""
        classes = [{"class": name, "probability": probability} for name, probability in self.classes]
        return {"path": str(self.path), "classes": classes}


@dataclass(frozen=True)
class Predictions:
    """What `predict_images` found: predictions in the order of the files, and the files skipped."""

    images: tuple[Prediction, ...]
    skipped: tuple[Skipped, ...]

    def to_dict(self) -> dict[str, Any]:
        """The predictions as plain JSON values."""
        return {
            "images": [prediction.to_dict() for prediction in self.images],
            "images_skipped": len(self.skipped),
            "skipped": [{"name": skipped.name, "reason": skipped.reason} for skipped in self.skipped],
        }


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
    """Classify image files; a file that cannot be read is skipped and named, never replaced.

    Raises UserError when the network's outputs for an image are not finite numbers.
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


def draw_predictions(predictions: Sequence[Prediction], path: Path) -> int:
    """Write a contact sheet of the images with their names and two best classes; returns how many it shows.

    At most `SHEET_IMAGES` are shown, spread evenly over all.
    """
    shown = evenly_spread(predictions, SHEET_IMAGES)
    titles = [
        "\n".join([one.path.name, *(f"{name} {100 * probability:.0f} %" for name, probability in one.classes[:2])])
        for one in shown
    ]
    contact_sheet([_thumbnail(one.path) for one in shown], titles, path)
    return len(shown)


def _thumbnail(path: Path) -> Image.Image:
    """The image, shrunk where it is large: dozens of whole photographs would not fit into memory."""
    image = open_image(path)
    image.thumbnail((400, 400))
    return image
