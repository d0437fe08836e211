"""The network that `--model` and `--weights` name, with the preprocessing and class names that came with it."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from gcnet.data.settings import Interpolation, Preprocessing
from gcnet.errors import UserError
from gcnet.models.checkpoints.source import read_state_dict
from gcnet.models.create import create_model
from gcnet.models.files import card_of, load_model
from gcnet.models.names import require_classifier

MODEL_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Network:
    """A trained classifier; `preprocessing` and `class_names` are None where its weights come without them."""

    model: nn.Module
    num_classes: int
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None

    def names(self) -> tuple[str, ...]:
        """The class names, or "class 0", "class 1", ... where none are known."""
        return self.class_names or tuple(f"class {label}" for label in range(self.num_classes))


def open_network(model: str, weights: str | None = None) -> Network:
    """Open a model file, or a network by name with its weights (a file, or "pretrained").

    Raises UserError when there is no such file, when a name comes without weights, or when the weights do not fit.
    """
    path = Path(model)
    if path.is_file() or path.suffix == MODEL_SUFFIX:
        if weights is not None:
            raise UserError(f"--weights belongs to a network by name, and --model is a file that has its own: {model}")
        return _from_file(path)
    if path.is_dir():
        files = sorted(path.rglob("*" + MODEL_SUFFIX), key=lambda file: (file.stem != "best", file))
        found = ", ".join(map(str, files[:3]))
        raise UserError(
            f"--model must be a file or a name, and {model} is a folder" + (f"; it holds {found}" if found else "")
        )
    require_classifier(model)
    if weights is None:
        known = create_model(model)  # an unknown name deserves its own sentence
        raise UserError(
            f"a network by name needs trained weights: give --weights FILE with --model {card_of(known).architecture}, "
            f"or a model file to --model"
        )
    return _from_name(model, weights)


def _from_file(path: Path) -> Network:
    model = load_model(path)
    card = card_of(model)
    require_classifier(card.architecture or "")
    if card.num_classes is None:
        raise UserError(f"{path} holds no classifier: its model card has no number of classes")
    if card.class_names is not None and len(card.class_names) != card.num_classes:
        raise UserError(
            f"{path} names {len(card.class_names)} classes for {card.num_classes} outputs; it must name each"
        )
    preprocessing = None if card.preprocessing is None else Preprocessing.from_dict(card.preprocessing)
    return Network(model, card.num_classes, preprocessing, card.class_names)


def _from_name(name: str, weights: str) -> Network:
    classes = None
    if weights != "pretrained":
        classes = _outputs(create_model(name), weights)
    model = create_model(name, num_classes=classes, weights=weights)
    return Network(model.eval(), card_of(model).num_classes or 0)


def _outputs(fresh: nn.Module, weights: str) -> int | None:
    """The number of classes that weights are for, where it is not the network's usual one.

    Loading for fine-tuning starts a classifier of another size anew; judging one must instead keep it.
    """
    own = fresh.state_dict()
    unfit = {
        len(tensor)
        for name, tensor in read_state_dict(Path(weights)).items()
        if name in own and own[name].shape != tensor.shape and own[name].shape[1:] == tensor.shape[1:]
    }
    return unfit.pop() if len(unfit) == 1 else None


def override_preprocessing(
    preprocessing: Preprocessing,
    *,
    image_size: int | None = None,
    resize: int | None = None,
    crop: float | None = None,
    interpolation: Interpolation | None = None,
) -> Preprocessing:
    """The preprocessing with some steps changed.

    `image_size` alone keeps the share of the image that the centre crop takes; `resize` (the short side before the
    crop, in pixels) or `crop` (that share, up to 1) set it.
    """
    size = image_size or preprocessing.image_size
    share = crop or preprocessing.image_size / (preprocessing.resize or preprocessing.image_size)
    short = resize or (round(size / share) if crop or preprocessing.resize else None)
    return replace(
        preprocessing, image_size=size, resize=short, interpolation=interpolation or preprocessing.interpolation
    )
