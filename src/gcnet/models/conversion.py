"""Conversion of checkpoints of other libraries: builds the network that a checkpoint describes, with its weights."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcnet.checkpoints.file_names import contradictions
from gcnet.checkpoints.foreign_files import read_weight_file, weight_format
from gcnet.checkpoints.network import NetworkDescription, NetworkSource, check_layout
from gcnet.checkpoints.network_sources import NETWORK_SOURCES, choose_source
from gcnet.checkpoints.published_files import published_files
from gcnet.checkpoints.weight_file import WeightFile, unwrapped_weights
from gcnet.errors import UserError, printable
from gcnet.insertion import insert
from gcnet.models.card import ModelCard, card_of, set_card
from gcnet.models.model_file import load_strictly
from gcnet.models.registry import build_base_model, detector_options
from gcnet.tensor_files import has_checksum

_LOG = logging.getLogger("gcnet")
_MOST_PREFIXES = 3  # such as "model._orig_mod."
_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint.

    Attributes:
        model: the network in eval mode, with a model card.
        source: name of the source, such as "mmdet".
        network: description of the network.
        notes: sentences on the checkpoint and on what was not converted.
    """

    model: nn.Module
    source: str
    network: NetworkDescription
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Source, network and notes."""
        blocks = ", ".join(_summary(insertion) for insertion in self.network.insertions)
        lines = [f"source: {self.source}", f"network: {self.network.architecture}{' with ' + blocks if blocks else ''}"]
        if self.network.num_classes is not None:
            lines.append(f"classes: {self.network.num_classes}")
        published = (card_of(self.model).provenance or {}).get("name")
        lines += [f"published as: {published}"] if published else []
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


_UNSHOWN = ("block", "example_input")


def _summary(insertion: Mapping[str, Any]) -> str:
    options = [f"{name} {_shown(value)}" for name, value in insertion.items() if name not in _UNSHOWN]
    return f"{insertion['block']} ({', '.join(options)})"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def convert_weights(
    checkpoint: str | Path | Mapping[str, Any], source: str | None = None, *, ema: bool = False
) -> Converted:
    """Convert a checkpoint of another library to a network of this package.

    Args:
        checkpoint: a file, or its content: tensors by name, possibly within entries such as "state_dict".
        source: a name of `NETWORK_SOURCES`; None to recognize it.
        ema: convert the moving average of the weights.

    Returns:
        The network with its source.

    Raises:
        UserError: an unreadable or unrecognized checkpoint, keys or shapes that do not fit the network they
            describe, or NaN or infinite weights; the message names them.
    """
    weights = _read(checkpoint, ema)
    name = choose_source(weights, source)
    library = NETWORK_SOURCES[name]
    network = library.describe(weights)
    tensors = {key: value for key, value in weights.tensors.items() if not key.startswith(network.skipped or ("\0",))}
    expected = _expected_layout(library, network)
    check_layout(tensors, expected, weights.origin, name)
    _check_values(tensors, weights.origin)
    model = build_described(network)
    counters = {key: torch.zeros_like(value, device="cpu") for key, value in expected.items() if key.endswith(_COUNTER)}
    load_strictly(model, model.state_dict() | library.convert(counters | tensors, network), weights.origin)
    provenance: dict[str, Any] = {"source": name}
    if isinstance(checkpoint, str | Path):
        provenance |= _provenance(Path(checkpoint), network)
    set_card(model, _card(network, provenance))
    return Converted(model.eval(), name, network, (*weights.notes, *network.notes))


def _check_values(tensors: Mapping[str, Tensor], origin: str) -> None:
    """Refuse weights that are NaN or infinite in float32, and report those that float32 rounds.

    Raises:
        UserError: values are not finite.
    """
    floats = {key: value for key, value in tensors.items() if value.is_floating_point()}
    counts = {key: int((~value.float().isfinite()).sum()) for key, value in floats.items()}
    broken = [key for key, count in counts.items() if count]
    if broken:
        others = f" and {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        raise UserError(
            f"{origin} has {sum(counts.values()):,} NaN or infinite values, in {printable(broken[0])}{others}; take "
            "weights from before the training diverged"
        )
    wide = {key: value for key, value in floats.items() if value.dtype == torch.float64}
    rounded = [key for key, value in wide.items() if not torch.equal(value.float().double(), value)]
    if rounded:
        _LOG.warning(
            "%s: %d of %d tensors are float64 and are rounded to float32, such as %s",
            origin,
            len(rounded),
            len(tensors),
            printable(rounded[0]),
        )


def _expected_layout(library: NetworkSource, network: NetworkDescription) -> dict[str, Tensor]:
    """The checkpoint of a described network, on the meta device: a damaged file may describe a network of any size."""
    try:
        with torch.device("meta"):
            return library.to_library(_converted_part(build_described(network), network), network)
    except RuntimeError:  # networks that compute with tensors while they are built, such as RegNet
        return library.to_library(_converted_part(build_described(network), network), network)


def _converted_part(model: nn.Module, network: NetworkDescription) -> dict[str, Tensor]:
    """The tensors that the checkpoint has weights for."""
    return {key: value for key, value in model.state_dict().items() if not key.startswith(network.fresh or ("\0",))}


def build_described(network: NetworkDescription) -> nn.Module:
    """Build the network of a description, with fresh weights.

    Args:
        network: the description.

    Returns:
        The network, with its blocks, in training mode.

    Raises:
        UserError: an unknown name or option.
    """
    detector = None if network.detector is None else detector_options(network.architecture, network.detector)
    model = build_base_model(network.architecture, network.num_classes, detector)
    for insertion in network.insertions:
        arguments = dict(insertion)
        insert(model, arguments.pop("block"), **arguments)
    return model


def _read(checkpoint: str | Path | Mapping[str, Any], ema: bool) -> WeightFile:
    """The checkpoint, without prefixes that all keys share, such as Lightning's "model."."""
    if isinstance(checkpoint, str | Path):
        if weight_format(Path(checkpoint)) == "safetensors" and has_checksum(Path(checkpoint)):
            raise UserError(f"{printable(checkpoint)} is a file of gcnet already, and needs no conversion")
        weights = read_weight_file(Path(checkpoint), ema=ema)
    else:
        weights = unwrapped_weights(checkpoint, "the state dict", ema=ema)
    for _ in range(_MOST_PREFIXES):
        weights = _without_shared_prefix(weights)
    return weights


def _without_shared_prefix(weights: WeightFile) -> WeightFile:
    first, *others = {key.partition(".")[0] for key in weights.tensors}
    if others or first == "backbone" or first in weights.tensors:
        return weights
    tensors = {key.removeprefix(f"{first}."): value for key, value in weights.tensors.items()}
    return replace(weights, tensors=tensors, notes=(*weights.notes, f'prefix "{printable(first)}." removed'))


def _provenance(path: Path, network: NetworkDescription) -> dict[str, Any]:
    """File name and SHA-256; of published files their names, licenses and scores, too. Warns of a contradiction."""
    for sentence in contradictions(path.name, network):
        _LOG.warning("%s", sentence)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin: dict[str, Any] = {"file": path.name, "sha256": digest}
    published = next((other for other in published_files() if digest.startswith(other.digest)), None)
    if published is None:
        return origin
    scores = {metric: float(score) for metric, score in zip(published.metrics, published.scores, strict=True)}
    origin |= {"name": published.name, "dataset": published.dataset, "scores": scores}
    origin["scores_from"] = published.scores_from
    return origin | ({"license": published.license} if published.license else {})


def _card(network: NetworkDescription, provenance: dict[str, Any]) -> ModelCard:
    return ModelCard(
        network.architecture,
        network.num_classes,
        preprocessing=None if network.preprocessing is None else dict(network.preprocessing),
        class_names=network.class_names,
        detector=None if network.detector is None else detector_options(network.architecture, network.detector),
        category_ids=network.category_ids,
        provenance=provenance,
    )
