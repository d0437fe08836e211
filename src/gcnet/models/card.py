"""Model card: metadata of a model file, validated on reading and against its tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcnet.blocks import build_block
from gcnet.errors import UserError, printable
from gcnet.insertion import inserted
from gcnet.insertion.record import check_record
from gcnet.models.registry import build_base_model
from gcnet.models.uninitialized import Uninitialized
from gcnet.storage import StorageError

_LONGEST = 80  # letters of a value in an error


@dataclass(frozen=True)
class ModelCard:
    """Metadata of a model file.

    Attributes:
        architecture: name of the base model for `create_model`; None for a network of your own.
        num_classes: number of classes; None for a network of your own.
        insertions: records of `insert`, call by call.
        preprocessing: `gcnet.data.settings.Preprocessing` as a dict, or None.
        class_names: in the order of the logits, for detectors of the labels from 1; or None.
        detector: `detector` of `create_model`, or None.
        category_ids: ids in COCO annotations of a detector's labels, from 1; or None.
        image_size: `image_size` of `create_model`, or None.
        provenance: of converted weights: source, file and its SHA-256, published scores and license; or None.
    """

    architecture: str | None = None
    num_classes: int | None = None
    insertions: tuple[dict[str, Any], ...] = ()
    preprocessing: dict[str, Any] | None = None
    class_names: tuple[str, ...] | None = None
    detector: dict[str, Any] | None = None
    category_ids: tuple[int, ...] | None = None
    image_size: int | None = None
    provenance: dict[str, Any] | None = None


def card_of(model: nn.Module) -> ModelCard:
    """Return the card of `model`; an empty one for a network of your own."""
    return getattr(model, "model_card", ModelCard())


def network_name(model: nn.Module) -> str:
    """Return the name of `model` and its inserted blocks, such as "resnet50 + gc"."""
    name = card_of(model).architecture or type(model).__name__
    return " + ".join(dict.fromkeys([name, *(insertion.block for insertion in inserted(model))]))


def set_card(model: nn.Module, card: ModelCard) -> None:
    """Set the card that `save_model` will write.

    Args:
        model: the network.
        card: the card.
    """
    vars(model)["model_card"] = card


def read_card(metadata: Mapping[str, Any], path: Path) -> ModelCard:
    """Return the card in the metadata of a model file.

    Args:
        metadata: as read from JSON.
        path: of the file, for errors.

    Raises:
        StorageError: an entry that `save_model` does not write.
    """
    # Older files lack entries that came later.
    values: dict[str, Any] = {field.name: metadata.get(field.name, field.default) for field in fields(ModelCard)}
    for name, (fits, expected) in _ENTRIES.items():
        if values[name] is not None and not fits(values[name]):
            shown = printable(repr(values[name])[:_LONGEST])
            raise StorageError(f"{printable(path)} is damaged or was edited: {name} must be {expected}, found {shown}")
    values["insertions"] = tuple(values["insertions"] or ())
    for name in ("class_names", "category_ids"):
        values[name] = values[name] if values[name] is None else tuple(values[name])
    if values["detector"] is not None:
        values["detector"] = {key: tuple(v) if isinstance(v, list) else v for key, v in values["detector"].items()}
    card = ModelCard(**values)
    for record in card.insertions:
        try:
            check_record(record)
        except UserError as error:
            raise StorageError(f"{printable(path)} is damaged or was edited: {error}") from error
    return card


def _is_list_of(kind: type) -> Callable[[object], bool]:
    def fits(value: object) -> bool:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(type(item) is kind for item in value)

    return fits


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_ENTRIES: dict[str, tuple[Callable[[object], bool], str]] = {
    "architecture": (_is_text, "the name of a network"),
    "num_classes": (_is_count, "a positive whole number"),
    "insertions": (_is_list_of(dict), "a list of insertions"),
    "preprocessing": (_is_object, "an object"),
    "class_names": (_is_list_of(str), "a list of names"),
    "detector": (_is_object, "an object"),
    "category_ids": (_is_list_of(int), "a list of whole numbers"),
    "image_size": (_is_count, "a positive whole number"),
    "provenance": (_is_object, "an object"),
}


def check_block_weights(records: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor], path: object) -> None:
    """Check that a file holds the weights of the blocks in its records.

    Args:
        records: of `insertion_records`, already validated.
        tensors: of the file, by name.
        path: of the file, for errors.

    Raises:
        StorageError: a tensor is missing or has another shape.
    """
    for record in records:
        if record["custom"] or "places" not in record:
            continue
        for site in record["places"]:
            with torch.device("meta"), Uninitialized():
                block = build_block(
                    record["block"],
                    channels=site["channels"],
                    dims=site.get("dims", 2),
                    ratio=record["ratio"],
                    **record["options"],
                )
            prefix = f"{site['name']}.context." if site["name"] else "context."
            shapes = {prefix + name: tensor.shape for name, tensor in block.state_dict().items()}
            _require_shapes(shapes, tensors, path, "blocks")


def check_base_weights(card: ModelCard, tensors: Mapping[str, Tensor], path: object) -> None:
    """Check that a file holds the weights of the base model in its card, before that is built.

    Args:
        card: of the file; `architecture` is the name of a network.
        tensors: of the file, by name.
        path: of the file, for errors.

    Raises:
        StorageError: a tensor is missing or has another shape.
        UserError: unknown architecture or option.
    """
    held = sum(tensor.numel() for tensor in tensors.values())
    numbers = {"num_classes": card.num_classes, **(card.detector or {})}
    for name, value in numbers.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and number > held:
                raise StorageError(f"{path} declares {name} {number:,}, but its tensors have {held:,} elements in all")
    try:
        with torch.device("meta"), Uninitialized():
            base = build_base_model(card.architecture or "", card.num_classes, card.detector, card.image_size)
    except UserError:
        raise
    except (RuntimeError, NotImplementedError):  # cannot be built without memory; its weights are compared afterwards
        return
    _require_shapes({name: tensor.shape for name, tensor in base.state_dict().items()}, tensors, path, "network")


def _require_shapes(shapes: Mapping[str, torch.Size], tensors: Mapping[str, Tensor], path: object, what: str) -> None:
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape:
            shown = tuple(tensors[name].shape) if name in tensors else "none"
            raise StorageError(
                f"{path} does not hold the weights of its own {what}: {printable(name)} must have shape "
                f"{tuple(shape)}, found {shown}"
            )
