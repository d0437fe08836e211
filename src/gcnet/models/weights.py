"""Loads weights into networks with blocks, and classifier weights into the backbone of a detector."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcnet.checkpoints.foreign_files import WeightFile, read_weight_file
from gcnet.errors import UserError, printable
from gcnet.models.matching import listed, looks_like_mmdet, matched_names, new_head, resized
from gcnet.models.model_file import load_strictly, without_profiles
from gcnet.models.pretrained import find_pretrained, read_pretrained
from gcnet.models.registry import build_base_model

_LOG = logging.getLogger("gcnet")
_COUNTER = ".num_batches_tracked"
_OFFSETS = ".conv_offset."


@dataclass(frozen=True)
class LoadedWeights:
    """Summary of weights loaded into a network.

    Attributes:
        origin: the file, or the published weights ("torchvision resnet50 IMAGENET1K_V2").
        tensors: number of loaded tensors.
        head: why layers of the classifier are newly initialized; empty if they were loaded.
        new_layers: names of newly initialized layers.
        new_blocks: number of tensors of inserted blocks that the weights lack.
        notes: removed prefixes and skipped tensors, in words.
    """

    origin: str
    tensors: int
    head: str = ""
    new_layers: tuple[str, ...] = ()
    new_blocks: int = 0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.tensors} tensors from {printable(self.origin)}", *self.notes]
        if self.head:
            parts.append(self.head)
        if self.new_blocks:
            parts.append(f"{self.new_blocks} tensors of blocks initialized anew")
        return "; ".join(parts)


def loaded_weights(model: nn.Module) -> LoadedWeights | None:
    """Return the summary of the weights that `create_model` loaded into `model`, None without weights."""
    return vars(model).get("loaded_weights")


def load_weights(
    model: nn.Module,
    source: str | Path,
    base_name: str,
    base_keys: set[str],
    *,
    base_options: Mapping[str, Any] | None = None,
    download: bool = False,
) -> LoadedWeights:
    """Load weights of the base model or of the whole network.

    Layers whose shape depends on the number of classes are newly initialized, all of them, if the weights have another
    number of classes or lack them; so are blocks if the weights have none.

    Args:
        model: the network, with its blocks.
        source: a file, "pretrained", or the name of published weights.
        base_name: name of the base model.
        base_keys: state-dict keys of the base model.
        base_options: options of `build_base_model`, other than name and classes.
        download: download published weights that are not in the cache.

    Returns:
        A summary.

    Raises:
        UserError: unavailable weights, or weights that do not fit. The model is then unchanged.
    """
    options = dict(base_options or {})
    size = options.get("image_size")
    weights = read_weights(source, base_name, argument="weights", image_size=size, download=download)
    own = without_profiles(model.state_dict())
    matched, notes = matched_names(weights.tensors, own, str(source))
    given = resized(matched, own, model)
    available = _counters(own) | given
    fresh = _fresh(own, available, base_keys)
    head = new_head(own, given, fresh | set(_counters(own)), base_name, options)
    loaded = {name: value for name, value in available.items() if name not in head.names}
    _load(model, loaded | {name: own[name] for name in fresh | head.names}, weights, str(source))
    if head.reason:
        _LOG.warning("%s: %s", printable(str(source)), head.reason)
    report = LoadedWeights(
        origin=_origin(source, base_name),
        tensors=sum(name not in head.names for name in given),
        head=head.reason,
        new_layers=head.layers,
        new_blocks=len(fresh),
        notes=(*weights.notes, *notes),
    )
    vars(model)["loaded_weights"] = report
    return report


def load_backbone(model: nn.Module, source: str | Path, classifier: str, *, download: bool = False) -> LoadedWeights:
    """Load the weights of a classifier, without its head, into the backbone of a detector.

    Offsets of deformable convolutions stay, as do blocks if the file has none.

    Args:
        model: a detector.
        source: a file of this package, torchvision or timm, "pretrained", or the name of published weights.
        classifier: name of the plain classifier.
        download: download published weights that are not in the cache.

    Returns:
        A summary.

    Raises:
        UserError: unavailable weights, or weights that do not fit. The model is then unchanged.
    """
    weights = read_weights(source, classifier, argument="backbone_weights", download=download)
    body = model.get_submodule("backbone.body")
    own = without_profiles(body.state_dict())
    with torch.device("meta"):
        plain = build_base_model(classifier, 1).state_dict()
    matched, notes = matched_names(weights.tensors, plain | own, str(source))
    head = {name for name in plain if not hasattr(body, name.partition(".")[0])}
    unread = {name for name in matched if name in head or (name.endswith(_COUNTER) and name not in own)}
    kept = {name: value for name, value in matched.items() if name not in unread}
    loaded = _counters(own) | kept
    fresh = _fresh(own, loaded, set(plain))
    _load(body, loaded | {name: own[name] for name in fresh}, weights, str(source))
    report = LoadedWeights(
        _origin(source, classifier), len(kept), new_blocks=len(fresh), notes=(*weights.notes, *notes)
    )
    vars(model)["loaded_weights"] = report
    return report


def read_weights(
    source: str | Path, base_name: str, *, argument: str, image_size: int | None = None, download: bool = False
) -> WeightFile:
    """Return the weights of a file, or published ones.

    Args:
        source: a file, "pretrained", or the name of published weights.
        base_name: name of the base model.
        argument: name of the user's argument, for errors.
        image_size: image size in pixels, to resize position embeddings of timm.
        download: download published weights that are not in the cache.

    Raises:
        UserError: the file cannot be read, or the weights are unavailable.
    """
    pretrained = find_pretrained(base_name, source, argument)
    if pretrained is None:
        return read_weight_file(Path(source))
    return WeightFile(read_pretrained(pretrained, argument, image_size, download=download))


def _load(model: nn.Module, tensors: Mapping[str, Tensor], weights: WeightFile, origin: str) -> None:
    """Load weights that must match; the error of an mmdet checkpoint names `gcnet convert`."""
    try:
        load_strictly(model, tensors, origin)
    except UserError as error:
        if not looks_like_mmdet(weights.tensors):
            raise UserError(f"{error}{_hint(model, tensors, weights.tensors)}") from error
        raise UserError(
            f"{printable(origin)} looks like a checkpoint of mmdet or mmpretrain ({listed(list(weights.tensors))}): "
            f"gcnet convert makes a model file of it (in Python: gcnet.convert_checkpoint)"
        ) from error


def _hint(model: nn.Module, loaded: Iterable[str], given: Iterable[str]) -> str:
    """A hint to append if the weights are from another kind of network.

    Args:
        model: the network.
        loaded: the names that were to be loaded.
        given: the names in the file.
    """
    own = model.state_dict()
    unknown = [name for name in loaded if name not in own]
    if unknown and all(".context." in name for name in unknown) and not any(".context." in name for name in own):
        return "; they are from a network with context blocks: insert the same blocks with `block`"
    if hasattr(model, "roi_heads") and not any(name.startswith(("backbone.", "roi_heads.")) for name in given):
        return "; use `backbone_weights` for weights of a classifier"
    return ""


def _origin(source: str | Path, base_name: str) -> str:
    pretrained = find_pretrained(base_name, source)
    return str(source if pretrained is None else pretrained)


def _counters(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch counters, which files older than PyTorch 0.4.1 lack and no network uses."""
    return {name: value for name, value in own.items() if name.endswith(_COUNTER)}


def _fresh(own: Mapping[str, Tensor], available: Iterable[str], base_keys: set[str]) -> set[str]:
    """The names of newly initialized tensors: missing offsets, and blocks without any weights."""
    added = {name for name in own if name not in base_keys}
    offsets = {name for name in added if _OFFSETS in name}
    blocks = added - offsets
    return (offsets | blocks if blocks.isdisjoint(available) else offsets).difference(available)
