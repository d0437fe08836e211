"""Trained classifiers, with their preprocessing and class names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from gcnet.data.settings import Preprocessing, PreprocessingSettings
from gcnet.errors import UserError, printable
from gcnet.models.card import ModelCard, card_of
from gcnet.models.create import create_model
from gcnet.models.matching import AUXILIARY, class_layers, matched_names
from gcnet.models.pretrained import find_pretrained
from gcnet.models.registry import split_name
from gcnet.models.weights import loaded_weights, read_weights
from gcnet.tasks.classification.imagenet import names_for_file, names_for_weights
from gcnet.tasks.classification.preprocessing import own_preprocessing, published_preprocessing


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained classifier.

    Attributes:
        model: network, images (N, 3, H, W) float -> logits (N, num_classes).
        num_classes: number of classes.
        preprocessing: preprocessing of the images; None if unknown.
        class_names: class names in the order of the logits, by which an evaluation finds its classes; None if unknown.
        shown_names: names for predictions without `class_names`; None for "class 0", "class 1", ....
    """

    model: nn.Module
    num_classes: int
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None
    shown_names: tuple[str, ...] | None = None

    def names(self) -> tuple[str, ...]:
        """Return the class names for predictions, or "class 0", "class 1", ... if they are unknown."""
        unknown = (f"class {label}" for label in range(self.num_classes))
        return self.class_names or self.shown_names or tuple(unknown)


def classifier_of_file(path: Path, model: nn.Module, card: ModelCard) -> TrainedClassifier:
    """Create the classifier of a model file.

    Args:
        path: model file.
        model: network of the file.
        card: its model card, with a number of classes.

    Returns:
        The classifier; without preprocessing in the card, that of the published weights of the architecture.
    """
    preprocessing = None if card.preprocessing is None else Preprocessing.from_dict(card.preprocessing)
    if preprocessing is None and card.architecture is not None:
        preprocessing = published_preprocessing(card.architecture, str(path))
    return TrainedClassifier(model, card.num_classes or 0, preprocessing, card.class_names, names_for_file(card))


def classifier_by_name(name: str, weights: str, image_size: int | None, *, download: bool) -> TrainedClassifier:
    """Create a classifier by name and load weights.

    Args:
        name: network name, as in `create_model`.
        weights: a file, "pretrained", or a published version.
        image_size: side of the images in pixels, if it differs from that of the weights.
        download: download published weights that are not in the cache.

    Returns:
        The classifier, in eval mode.

    Raises:
        UserError: the weights do not fit, or lack the classification layer.
    """
    base = split_name(name)[1]
    own = own_preprocessing(base, weights)
    size = image_size or (own.image_size if own else None)
    tensors = read_weights(weights, base, argument="weights", download=download).tensors
    classes = _number_of_classes(create_model(name), tensors, class_layers(base))
    model = create_model(name, num_classes=classes, weights=weights, image_size=size, download=download)
    loaded = loaded_weights(model)
    if loaded is not None and loaded.new_layers and not set(loaded.new_layers) <= AUXILIARY:
        raise UserError(f"{weights} has no trained classifier for {name}: {loaded.head}")
    count = card_of(model).num_classes or 0
    shown = names_for_weights(find_pretrained(base, weights), count)
    return TrainedClassifier(model.eval(), count, own, shown_names=shown)


def _number_of_classes(fresh: nn.Module, tensors: Mapping[str, Tensor], layers: set[str]) -> int | None:
    """Return the number of classes of the weights; None if it is the default of the network.

    Loading for fine-tuning replaces a classification layer of another size; an evaluation must keep it.
    """
    own = fresh.state_dict()
    matched, _ = matched_names(tensors, own, "`weights`")
    sizes = {
        len(tensor)
        for name, tensor in matched.items()
        if name in own
        and name.rpartition(".")[0] in layers
        and tensor.shape != own[name].shape
        and tensor.shape[1:] == own[name].shape[1:]
    }
    return sizes.pop() if len(sizes) == 1 else None


def find_preprocessing(network: TrainedClassifier, given: PreprocessingSettings, model: str) -> Preprocessing:
    """Combine the preprocessing of a classifier with that of the settings.

    Args:
        network: the classifier.
        given: settings, which override the preprocessing of the network.
        model: network as named by the user, for errors.

    Returns:
        The preprocessing.

    Raises:
        UserError: the network has no preprocessing, and the settings have no image size.
    """
    if network.preprocessing is not None:
        return given.applied(network.preprocessing)
    if given.image_size is None:
        raise UserError(f"{printable(model)} has no preprocessing: give `image_size`, the side of its training images")
    return given.applied(Preprocessing(given.image_size))
