"""Checks what a model file declares against its tensors, before anything is allocated."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gcnet.blocks import build_block
from gcnet.errors import UserError, printable
from gcnet.models.card import ModelCard
from gcnet.models.registry import build_host
from gcnet.storage import StorageError


def require_weights_of_blocks(
    records: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor], path: object
) -> None:
    """Check that a file holds the weights of the blocks that its records describe.

    Args:
        records: of `insertion_records`, already checked.
        tensors: of the file, by name.
        path: of the file, for errors.

    Raises:
        StorageError: it does not.
    """
    for record in records:
        if record["custom"] or "places" not in record:
            continue
        for place in record["places"]:
            with torch.device("meta"):
                block = build_block(
                    record["block"],
                    channels=place["channels"],
                    dims=place.get("dims", 2),
                    ratio=record["ratio"],
                    **record["options"],
                )
            prefix = f"{place['name']}.context." if place["name"] else "context."
            shapes = {prefix + name: tensor.shape for name, tensor in block.state_dict().items()}
            _require_shapes(shapes, tensors, path, "blocks")


def require_weights_of_host(card: ModelCard, tensors: Mapping[str, Tensor], path: object) -> None:
    """Check that a file holds the weights of the network that its card describes, before that is built.

    Args:
        card: of the file; `architecture` is the name of a network.
        tensors: of the file, by name.
        path: of the file, for errors.

    Raises:
        StorageError: it does not.
        UserError: the architecture or an option is unknown.
    """
    held = sum(tensor.numel() for tensor in tensors.values())
    numbers = {"num_classes": card.num_classes, **(card.detector or {})}
    for name, value in numbers.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and number > held:
                raise StorageError(f"{path} declares {name} {number:,}, and its tensors have {held:,} elements in all")
    try:
        with torch.device("meta"):
            host = build_host(card.architecture or "", card.num_classes, card.detector, card.image_size)
    except UserError:
        raise
    except (RuntimeError, NotImplementedError):  # cannot be built without memory; its weights are compared afterwards
        return
    _require_shapes({name: tensor.shape for name, tensor in host.state_dict().items()}, tensors, path, "network")


def _require_shapes(shapes: Mapping[str, torch.Size], tensors: Mapping[str, Tensor], path: object, what: str) -> None:
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape:
            found = tuple(tensors[name].shape) if name in tensors else "none"
            raise StorageError(
                f"{path} does not hold the weights of its own {what}: {printable(name)} must have shape "
                f"{tuple(shape)}, found {found}"
            )
