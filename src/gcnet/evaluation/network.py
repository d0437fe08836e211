"""The network that `--model` and `--weights` name, with the preprocessing and class names that came with it."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from gcnet.data.settings import Interpolation, Preprocessing
from gcnet.errors import UserError
from gcnet.models.checkpoints.source import read_state_dict
from gcnet.models.create import create_model
from gcnet.models.files import card_of, load_model
from gcnet.models.names import is_detector
from gcnet.storage import has_checksum

MODEL_SUFFIX = ".safetensors"
_DETECTOR_LOGITS = re.compile(r"roi_heads\.(stages\.\d+\.)?box_predictor\.cls_score\.bias")


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


@dataclass(frozen=True)
class Detector:
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


def open_network(model: str, weights: str | None = None) -> Network:
    """Open a classifier as `open_trained` does; also raises UserError for a detector."""
    found = open_trained(model, weights)
    if isinstance(found, Detector):
        raise UserError(f"{model} is a detector, and a classifier is expected")
    return found


def open_detector(model: str, weights: str | None = None) -> Detector:
    """Open a detector as `open_trained` does; also raises UserError for a classifier."""
    found = open_trained(model, weights)
    if isinstance(found, Network):
        raise UserError(f"{model} is a classifier, and a detector is expected")
    return found


def open_trained(model: str, weights: str | None = None) -> Network | Detector:
    """Open a model file, or a network by name with its weights (a file, or "pretrained"), in eval mode on the CPU.

    Raises:
        UserError: there is no such file, a name comes without weights, the weights do not fit, those of a detector are
            not finite, or a file's class names or category ids are not one for each class.
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
    if weights is None:
        create_model(model)  # an unknown name deserves its own sentence
        raise UserError(
            f"a network by name needs trained weights: give --weights FILE with --model {model}, or a model file to "
            f"--model"
        )
    return _detector_from_name(model, weights) if is_detector(model) else _from_name(model, weights)


def _from_file(path: Path) -> Network | Detector:
    model = load_model(path)
    card = card_of(model)
    classes = card.num_classes
    if classes is None:
        raise UserError(f"{path} holds no classifier or detector: its model card has no number of classes")
    _require_each(path, "classes", card.class_names, classes)
    if is_detector(card.architecture or ""):
        _require_each(path, "category ids", card.category_ids, classes)
        _require_finite(model, str(path))
        return Detector(model, card.class_names, card.category_ids or tuple(range(1, classes + 1)))
    preprocessing = None if card.preprocessing is None else Preprocessing.from_dict(card.preprocessing)
    return Network(model, classes, preprocessing, card.class_names)


def _require_each(path: Path, what: str, named: Sequence[object] | None, count: int) -> None:
    if named is not None and len(named) != count:
        raise UserError(f"{path} names {len(named)} {what} for {count} outputs; it must name each")


def _require_finite(model: nn.Module, origin: str) -> None:
    """Refuse what would find nothing anywhere, since no score that is not a number is above a threshold."""
    for name, tensor in model.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"a detector's weights must be finite numbers; {name} of {origin} is not")


def _detector_from_name(name: str, weights: str) -> Detector:
    file = Path(weights)
    if file.suffix == MODEL_SUFFIX and file.is_file() and has_checksum(file):
        raise UserError(f"{weights} says itself which network it is of: give it to --model, without --weights")
    classes = None if weights == "pretrained" else _detector_classes(file)
    model = create_model(name, num_classes=classes, weights=weights)
    _require_finite(model, weights)
    return Detector(model.eval(), None, tuple(range(1, (card_of(model).num_classes or 0) + 1)))


def _detector_classes(weights: Path) -> int | None:
    """The number of classes of objects that a detector's weights are for, None where they are of something else."""
    sizes = (len(tensor) for name, tensor in read_state_dict(weights).items() if _DETECTOR_LOGITS.fullmatch(name))
    rows = next(sizes, None)
    return rows and rows - 1  # one is the background


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


def find_preprocessing(network: Network, image_size: int | None) -> Preprocessing | None:
    """How images are prepared: as the model file says, or timm, with the size changed if given; None if nobody says."""
    known = network.preprocessing or published_preprocessing(network.model)
    if known is None:
        return None if image_size is None else Preprocessing(image_size)
    return override_preprocessing(known, image_size=image_size)


def published_preprocessing(model: nn.Module) -> Preprocessing | None:
    """What timm says of its own networks; None for others."""
    published: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    if "input_size" not in published:
        return None
    size = published["input_size"][-1]
    return Preprocessing(
        size,
        max(size, math.floor(size / published.get("crop_pct", 1))),
        published.get("interpolation", "bicubic"),
        tuple(published["mean"]),
        tuple(published["std"]),
    )


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
