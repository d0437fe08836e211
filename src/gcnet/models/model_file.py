"""Model files: weights with the metadata that rebuilds the network."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gcnet.checkpoints.foreign_files import weight_format
from gcnet.errors import UserError, nearest, printable
from gcnet.insertion import insertion_records, refuse_fused
from gcnet.models.card import (
    ModelCard,
    card_of,
    read_card,
)
from gcnet.models.plain_weights import plain_weights, unwrapped
from gcnet.renamed import FORMAT_VERSION, upgraded_metadata
from gcnet.storage import StorageError
from gcnet.tensor_files import has_checksum, load_tensors, save_tensors

_PROFILES = ("total_ops", "total_params")


def save_model(
    model: nn.Module,
    path: str | Path,
    *,
    preprocessing: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    category_ids: Sequence[int] | None = None,
) -> None:
    """Write weights and model card to one `.safetensors` file, atomically and with a checksum.

    Omitted values are those of the card of the loaded model. Of compiled, parallel or averaged
    networks the inner network is written, of pruned and weight-normalized layers the weights that they compute with.

    Args:
        model: the network.
        path: the file.
        preprocessing: `gcnet.data.settings.Preprocessing` as a dict.
        class_names: in the order of the logits, for detectors of the labels from 1.
        category_ids: ids in COCO annotations of a detector's labels.

    Raises:
        UserError: weights are sharded (FSDP) or offloaded, or the network is one of `gcnet.fuse`.
        StorageError: the file cannot be written; an old one at `path` is then untouched.
    """
    model = unwrapped(model)
    refuse_fused(model, "saved")
    tensors = plain_weights(model, f"this {type(model).__name__}")
    known = card_of(model)
    card = ModelCard(
        architecture=known.architecture,
        num_classes=known.num_classes,
        insertions=tuple(insertion_records(model)),
        preprocessing=known.preprocessing if preprocessing is None else dict(preprocessing),
        class_names=known.class_names if class_names is None else tuple(class_names),
        detector=known.detector,
        category_ids=known.category_ids if category_ids is None else tuple(category_ids),
        image_size=known.image_size,
        provenance=known.provenance,
    )
    save_tensors(Path(path), tensors, {"kind": "model", "format_version": FORMAT_VERSION, **asdict(card)})


def read_model_file(path: str | Path) -> tuple[dict[str, Tensor], ModelCard]:
    """Read the file `path` of `save_model`.

    Returns:
        Weights by name, and the card.

    Raises:
        StorageError: the file is missing, damaged or of another kind.
        UserError: a file of another library, which the message names.
    """
    path = Path(path)
    if weight_format(path) != "safetensors" or not has_checksum(path):
        raise UserError(
            f"{printable(path)} holds only weights, without the name of their network: pass them as `weights` with "
            "`model=NAME` (in Python: create_model(NAME, weights=...)); gcnet convert converts checkpoints of other "
            "libraries"
        )
    tensors, metadata = load_tensors(path)
    if metadata.get("kind") != "model":
        kind = printable(str(metadata.get("kind", "file of unknown kind")))
        raise StorageError(f"{printable(path)} is not a model file but a {kind}")
    return tensors, read_card(upgraded_metadata(metadata, path), path)


def find_card(weights: str | Path) -> ModelCard | None:
    """Return the card of a model file; None for other files and for names of weights.

    Args:
        weights: a path, or a name such as "pretrained".

    Raises:
        StorageError: the model file is damaged.
    """
    path = Path(weights)
    if not os.path.isfile(path) or not has_checksum(path):
        return None
    _, metadata = load_tensors(path)
    return read_card(upgraded_metadata(metadata, path), path) if metadata.get("kind") == "model" else None


def without_profiles(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `tensors` without the counters that thop leaves in a profiled network."""
    return {name: value for name, value in tensors.items() if name.rpartition(".")[2] not in _PROFILES}


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load weights that must match key by key and shape by shape; counters of thop are ignored.

    Args:
        model: the network.
        tensors: the weights by name.
        origin: of the weights, for errors.

    Raises:
        UserError: missing, unknown or misshapen weights, which the message names. The model is then unchanged.
    """
    whole = model.state_dict()
    own, given = without_profiles(whole), without_profiles(tensors)
    given = {name: value for name, value in given.items() if name in own or not _is_step_count(name, own)}
    missing = [name for name in own if name not in given]
    unknown = [name for name in given if name not in own]
    complex_ = [name for name in own if name in given and given[name].is_complex() and not own[name].is_complex()]
    unfit = [name for name in own if name in given and own[name].shape != given[name].shape]
    problems = []
    if missing:
        problems.append(f"they lack {_listed(missing)}")
    if unknown:
        proposal = nearest(unknown[0], missing) if missing else ""
        problems.append(f"they hold the unknown {_listed(unknown)}{proposal.rstrip('?')}")
    if unfit:
        name = unfit[0]
        shapes = f"{tuple(given[name].shape)}, expected {tuple(own[name].shape)}"
        problems.append(f"they have another shape of {_listed(unfit)} (found {shapes})")
    if complex_:
        problems.append(f"they have complex numbers in {_listed(complex_)}")
    if problems:
        raise UserError(f"the weights of {printable(origin)} do not fit this network: {'; '.join(problems)}")
    model.load_state_dict(whole | given)


def _is_step_count(name: str, own: Mapping[str, Tensor]) -> bool:
    """Whether it is the count of steps of a batch norm that is frozen in this network, and needs none."""
    norm, _, entry = name.rpartition(".")
    return entry == "num_batches_tracked" and f"{norm}.running_mean" in own


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(printable, names[:3])) + more
