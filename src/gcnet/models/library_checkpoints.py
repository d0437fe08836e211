"""Checkpoints of networks for other libraries, verified by converting them back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gcnet.checkpoints.network import NetworkDescription
from gcnet.checkpoints.network_sources import NETWORK_SOURCES
from gcnet.errors import UserError, unknown
from gcnet.insertion import insertion_records
from gcnet.models.card import ModelCard, card_of
from gcnet.models.conversion import Converted, convert_weights

CHECKPOINT_LIBRARIES = ("mmdet", "mmdet1", "mmpretrain", "timm", "torchvision")
"""Libraries for which checkpoints are written."""

_PLAIN = ("timm", "torchvision")  # their files are state dicts
# Detector options with which the same weights give other outputs, and their defaults.
_SHARED = {"conventions": "mmdet", "norm_eps": 1e-5, "anchor_sizes": None}
_POSITIONS = {"after_norm": "after_conv3", "after_conv2": "after_conv2"}


def to_library_checkpoint(model: nn.Module, library: str) -> dict[str, Any]:
    """Return the checkpoint of a network for another library, whose tensors have the same bits.

    The checkpoint is converted back, which must give the same network.

    Args:
        model: a network by name, with its model card.
        library: one of `CHECKPOINT_LIBRARIES`.

    Returns:
        The content of a file of `torch.save`: a state dict for timm and torchvision; for the OpenMMLab libraries an
        entry "state_dict" and metadata with class names and plugins.

    Raises:
        UserError: the library cannot represent this network, or only with other outputs.
    """
    if library not in CHECKPOINT_LIBRARIES:
        raise unknown("library", library, CHECKPOINT_LIBRARIES)
    card = card_of(model)
    if card.architecture is None:
        raise UserError(
            "a checkpoint for another library requires a network by name, and this one has no architecture in its "
            "model card"
        )
    network = _description(model, card)
    try:
        tensors = NETWORK_SOURCES[library].to_library(model.state_dict(), network)
        content = tensors if library in _PLAIN else {"meta": _metadata(network), "state_dict": tensors}
        again = convert_weights(content, library)
    except UserError as error:
        raise UserError(f"{library} cannot represent this {card.architecture}: {error}") from error
    difference = _difference(model, again, network)
    if not difference and not _same(
        tensors, NETWORK_SOURCES[library].to_library(again.model.state_dict(), again.network)
    ):
        difference = "other weights"
    if difference:
        raise UserError(f"{library} cannot represent this {card.architecture}: converted back, it has {difference}")
    return content


def _description(model: nn.Module, card: ModelCard) -> NetworkDescription:
    insertions = [
        {"block": record["block"], "position": record["position"], **record["options"]}
        for record in insertion_records(model)
    ]
    return NetworkDescription(
        card.architecture or "",
        card.num_classes,
        tuple(insertions),
        card.detector,
        card.class_names,
    )


def _metadata(network: NetworkDescription) -> dict[str, Any]:
    """Class names, and the plugins and norms of the backbone as a configuration text."""
    plugins = ", ".join(map(_plugin, network.insertions))
    norms = "norm_cfg=dict(type='SyncBN'), norm_eval=False, " if (network.detector or {}).get("norm") == "sync" else ""
    metadata: dict[str, Any] = {"cfg": f"model = dict(backbone=dict({norms}plugins=[{plugins}]))"}
    return metadata | ({"dataset_meta": {"classes": network.class_names}} if network.class_names else {})


def _plugin(insertion: Mapping[str, Any]) -> str:
    position = f"position='{_POSITIONS.get(insertion['position'], insertion['position'])}'"
    block = insertion["block"]
    if not block.startswith("nl_"):
        return f"dict(cfg=dict(type='ContextBlock'), {position})"
    scaled = f", use_scale={insertion['use_scale']}" if "use_scale" in insertion else ""
    return f"dict(cfg=dict(type='NonLocal2d', mode='{block.removeprefix('nl_')}'{scaled}), {position})"


def _difference(model: nn.Module, again: Converted, network: NetworkDescription) -> str:
    """Difference of the network that the checkpoint converts back to, "" if there is none."""
    if again.network.architecture != network.architecture:
        return f"the architecture {again.network.architecture}"
    for name, default in _SHARED.items():
        own, other = ((options or {}).get(name, default) for options in (network.detector, again.network.detector))
        if network.detector is not None and own != other:
            return f"{name} {other} instead of {own}"
    own_blocks, others = _blocks(model), _blocks(again.model)
    for place, block in own_blocks.items():
        if others.get(place) != block:
            return f"another block at {place}"
    return ""


def _blocks(model: nn.Module) -> dict[str, tuple[str | None, str]]:
    """Position and description of the block at each site."""
    return {
        site["name"]: (record["position"], repr(model.get_submodule(f"{site['name']}.context")))
        for record in insertion_records(model)
        for site in record["places"]
    }


def _same(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)
