"""Trained detectors, with their class names and category ids."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gcnet.checkpoints.foreign_files import read_state_dict
from gcnet.errors import UserError
from gcnet.models.card import ModelCard, card_of
from gcnet.models.create import create_model
from gcnet.tensor_files import has_checksum

_LOGITS = re.compile(r"roi_heads\.(stages\.\d+\.)?box_predictor\.cls_score\.bias")


@dataclass(frozen=True)
class TrainedDetector:
    """A trained detector of `create_model`.

    Attributes:
        model: detector of `gcnet.models.detector.mask_rcnn.build_mask_rcnn`.
        class_names: class names in the order of the labels, from label 1; None if unknown.
        category_ids: ids in COCO annotations in the order of the labels, from label 1; the labels themselves if
            unknown.
    """

    model: nn.Module
    class_names: tuple[str, ...] | None
    category_ids: tuple[int, ...]

    def names(self) -> tuple[str, ...]:
        """Return the class names, or "class 1", "class 2", ... by category id if they are unknown."""
        return self.class_names or tuple(f"class {identity}" for identity in self.category_ids)


def detector_of_file(path: Path, model: nn.Module, card: ModelCard) -> TrainedDetector:
    """Create the detector of a model file.

    Args:
        path: model file.
        model: network of the file.
        card: its model card, with a number of classes.

    Returns:
        The detector.

    Raises:
        UserError: a weight is not finite.
    """
    classes = card.num_classes or 0
    _require_finite(model, str(path))
    return TrainedDetector(model, card.class_names, card.category_ids or tuple(range(1, classes + 1)))


def detector_by_name(name: str, weights: str, *, download: bool) -> TrainedDetector:
    """Create a detector by name and load weights.

    Args:
        name: network name, as in `create_model`.
        weights: a file, "pretrained", or a published version.
        download: download published weights that are not in the cache.

    Returns:
        The detector, in eval mode.

    Raises:
        UserError: the weights do not fit or are not finite, or the file is a gcnet model file.
    """
    file = Path(weights)
    if file.suffix == ".safetensors" and file.is_file() and has_checksum(file):
        raise UserError(f"{weights} is a model file with its own network: pass it as `model`, without `weights`")
    classes = None if weights == "pretrained" else _number_of_classes(file)
    model = create_model(name, num_classes=classes, weights=weights, download=download)
    _require_finite(model, weights)
    return TrainedDetector(model.eval(), None, tuple(range(1, (card_of(model).num_classes or 0) + 1)))


def _require_finite(model: nn.Module, origin: str) -> None:
    """Refuse weights that are not finite: NaN scores exceed no threshold, so nothing would be detected."""
    for name, tensor in model.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"a detector's weights must be finite numbers; {name} of {origin} is not")


def _number_of_classes(weights: Path) -> int | None:
    """Return the number of object classes of the weights; None for weights of another network."""
    sizes = (len(tensor) for name, tensor in read_state_dict(weights).items() if _LOGITS.fullmatch(name))
    rows = next(sizes, None)
    return rows and rows - 1  # without the background


def describe_resizing(detector: nn.Module) -> str:
    """Describe the image size to which a `detector` resizes.

    Returns:
        The sides in pixels, in words.
    """
    transform: Any = detector.transform
    short, long = transform.min_size[-1], transform.max_size
    sides = f"a short side of {short:,} and " if short < long else ""
    return f"resized to {sides}a long side of at most {long:,} pixels"
