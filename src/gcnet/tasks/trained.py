"""Trained networks by file, run folder or name, with their preprocessing and class names."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from gcnet.checkpoints.foreign_files import read_state_dict
from gcnet.data.settings import Preprocessing, PreprocessingSettings
from gcnet.errors import UserError, is_url, nearest_path, printable
from gcnet.models.card import card_of
from gcnet.models.create import create_model
from gcnet.models.matching import AUXILIARY, class_layers, matched_names
from gcnet.models.model_file import load_model
from gcnet.models.registry import is_detector, split_name
from gcnet.models.weights import loaded_weights, read_weights
from gcnet.storage import has_checksum
from gcnet.tasks.classification.preprocessing import own_preprocessing, published_preprocessing

MODEL_SUFFIX = ".safetensors"
_OF_RUN = ("best.safetensors", "last.safetensors")
_DETECTOR_LOGITS = re.compile(r"roi_heads\.(stages\.\d+\.)?box_predictor\.cls_score\.bias")


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained classifier; `preprocessing` and `class_names` are None where its weights come without them."""

    model: nn.Module
    num_classes: int
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None

    def names(self) -> tuple[str, ...]:
        """The class names, or "class 0", "class 1", ... where none are known."""
        return self.class_names or tuple(f"class {label}" for label in range(self.num_classes))


@dataclass(frozen=True)
class TrainedDetector:
    """A trained detector of `create_model`.

    Attributes:
        model: what `gcnet.models.detector.mask_rcnn.build_mask_rcnn` builds.
        class_names: of each label from 1, in order; None where its weights come without them.
        category_ids: of each label from 1, in order, the id in COCO's annotations; the labels where none are known.
    """

    model: nn.Module
    class_names: tuple[str, ...] | None
    category_ids: tuple[int, ...]

    def names(self) -> tuple[str, ...]:
        """The class names, or "class 1", "class 2", ... by their ids where none are known."""
        return self.class_names or tuple(f"class {identity}" for identity in self.category_ids)


def open_network(model: str, weights: str | None = None, *, image_size: int | None = None) -> TrainedClassifier:
    """Open a classifier as `open_trained` does; also raises UserError for a detector."""
    found = open_trained(model, weights, image_size=image_size)
    if isinstance(found, TrainedDetector):
        raise UserError(f"{model} is a detector, and a classifier is expected")
    return found


def open_detector(model: str, weights: str | None = None) -> TrainedDetector:
    """Open a detector as `open_trained` does; also raises UserError for a classifier."""
    found = open_trained(model, weights)
    if isinstance(found, TrainedClassifier):
        raise UserError(f"{model} is a classifier, and a detector is expected")
    return found


def open_trained(
    model: str, weights: str | None = None, *, image_size: int | None = None
) -> TrainedClassifier | TrainedDetector:
    """Open a model file, a run folder, or a network by name with its weights, in eval mode on the CPU.

    Args:
        model: a model file; a run folder, which stands for its best weights; or a name.
        weights: of a network by name: a file, "pretrained", or the name of published weights.
        image_size: side of the images in pixels, where it is not the network's own; a ViT by name is built for it.

    Raises:
        UserError: there is no such file, a name comes without weights, the weights do not fit, those of a detector are
            not finite, or a file's class names or category ids are not one for each class.
    """
    path = model_path(model)
    if path is not None:
        if weights is not None:
            raise UserError(f"`weights` belongs to a network by name, and `model` is a file that has its own: {model}")
        return _from_file(path)
    if weights is None:
        create_model(model)  # an unknown name deserves its own sentence
        raise UserError(
            f"a network by name needs trained weights: give `weights=FILE` beside {model}, or a model file instead"
        )
    return _detector_from_name(model, weights) if is_detector(model) else _from_name(model, weights, image_size)


def model_path(model: str) -> Path | None:
    """The model file that `--model` means, None where it is the name of a network; of a run folder its best weights.

    Raises:
        UserError: for a folder without model files, and for a model file that is not there.
    """
    path = Path(model)  # whose own methods raise for names that are too long
    if os.path.isdir(model):
        files = [file for name in _OF_RUN for file in (path / "weights" / name, path / name) if file.is_file()]
        if files:
            return files[0]
        found = sorted(map(str, path.rglob("*" + MODEL_SUFFIX)))[:3]
        holds = f"; it holds {', '.join(map(printable, found))}" if found else ""
        raise UserError(
            f"`model` must be a model file, a run folder or a name, and {printable(model)} is a folder without "
            f"weights/best.safetensors{holds}"
        )
    if path.suffix == MODEL_SUFFIX and not os.path.lexists(model) and not is_url(model):
        raise UserError(f"there is no model file {printable(model)}{nearest_path(model)}")
    return path if os.path.exists(model) or path.suffix == MODEL_SUFFIX else None


def _from_file(path: Path) -> TrainedClassifier | TrainedDetector:
    model = load_model(path)
    card = card_of(model)
    classes = card.num_classes
    if classes is None:
        raise UserError(f"{path} holds no classifier or detector: its model card has no number of classes")
    _require_each(path, "classes", card.class_names, classes)
    if is_detector(card.architecture or ""):
        _require_each(path, "category ids", card.category_ids, classes)
        _require_finite(model, str(path))
        return TrainedDetector(model, card.class_names, card.category_ids or tuple(range(1, classes + 1)))
    preprocessing = None if card.preprocessing is None else Preprocessing.from_dict(card.preprocessing)
    if preprocessing is None and card.architecture is not None:
        preprocessing = published_preprocessing(card.architecture, str(path))
    return TrainedClassifier(model, classes, preprocessing, card.class_names)


def _require_each(path: Path, what: str, named: Sequence[object] | None, count: int) -> None:
    if named is not None and len(named) != count:
        raise UserError(f"{path} names {len(named)} {what} for {count} outputs; it must name each")


def _require_finite(model: nn.Module, origin: str) -> None:
    """Refuse what would find nothing anywhere, since no score that is not a number is above a threshold."""
    for name, tensor in model.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"a detector's weights must be finite numbers; {name} of {origin} is not")


def _detector_from_name(name: str, weights: str) -> TrainedDetector:
    file = Path(weights)
    if file.suffix == MODEL_SUFFIX and file.is_file() and has_checksum(file):
        raise UserError(f"{weights} says itself which network it is of: give it to `model`, without `weights`")
    classes = None if weights == "pretrained" else _detector_classes(file)
    model = create_model(name, num_classes=classes, weights=weights)
    _require_finite(model, weights)
    return TrainedDetector(model.eval(), None, tuple(range(1, (card_of(model).num_classes or 0) + 1)))


def _detector_classes(weights: Path) -> int | None:
    """The number of classes of objects that a detector's weights are for, None where they are of something else."""
    sizes = (len(tensor) for name, tensor in read_state_dict(weights).items() if _DETECTOR_LOGITS.fullmatch(name))
    rows = next(sizes, None)
    return rows and rows - 1  # one is the background


def _from_name(name: str, weights: str, image_size: int | None) -> TrainedClassifier:
    host = split_name(name)[1]
    own = own_preprocessing(host, weights)
    size = image_size or (own.image_size if own else None)
    found = read_weights(weights, host, argument="weights").tensors
    classes = _outputs(create_model(name), found, class_layers(host))
    model = create_model(name, num_classes=classes, weights=weights, image_size=size)
    loaded = loaded_weights(model)
    if loaded is not None and loaded.new_layers and not set(loaded.new_layers) <= AUXILIARY:
        raise UserError(f"{weights} has no trained classifier for {name}: {loaded.head}")
    return TrainedClassifier(model.eval(), card_of(model).num_classes or 0, own)


def _outputs(fresh: nn.Module, found: Mapping[str, Tensor], layers: set[str]) -> int | None:
    """The number of classes that weights are for, where it is not the network's usual one.

    Loading for fine-tuning initializes a classifier of another size anew; an evaluation must instead keep it.
    """
    own = fresh.state_dict()
    matched, _ = matched_names(found, own, "`weights`")
    unfit = {
        len(tensor)
        for name, tensor in matched.items()
        if name in own
        and name.rpartition(".")[0] in layers
        and tensor.shape != own[name].shape
        and tensor.shape[1:] == own[name].shape[1:]
    }
    return unfit.pop() if len(unfit) == 1 else None


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def find_preprocessing(network: TrainedClassifier, given: PreprocessingSettings, model: str) -> Preprocessing:
    """How images are prepared: the network's own preprocessing, with what is given changed.

    Args:
        network: the classifier.
        given: what the user wants otherwise.
        model: what the user gave as the network, for errors.

    Raises:
        UserError: the network has no preprocessing of its own, and no image size is given.
    """
    if network.preprocessing is not None:
        return given.applied(network.preprocessing)
    if given.image_size is None:
        raise UserError(
            f"{printable(model)} comes without preprocessing: give `image_size`, the side of the images that it was "
            "trained on"
        )
    return given.applied(Preprocessing(given.image_size))
