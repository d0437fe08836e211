"""Files of inserted blocks alone: their weights, and what was inserted where, for a host that is had elsewhere."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gcnet.blocks import Builder
from gcnet.errors import UserError
from gcnet.models.files import load_strictly
from gcnet.models.insertion import insert_record, inserted, insertion_records, remove
from gcnet.storage import StorageError, load_tensors, save_tensors


def save_context(model: nn.Module, path: str | Path) -> None:
    """Write the inserted blocks' weights and places to one small `.safetensors` file, atomically and checksummed.

    Raises:
        UserError: nothing is inserted.
        StorageError: the file cannot be written; an old one at `path` is then untouched.
    """
    if not inserted(model):
        raise UserError(f"nothing is inserted in this {type(model).__name__}, so there is no block to save")
    metadata = {"kind": "context", "insertions": insertion_records(model)}
    save_tensors(Path(path), _context_state(model), metadata)


def load_context(model: nn.Module, path: str | Path, *, builders: Mapping[str, Builder] | None = None) -> None:
    """Load a file of `save_context` into the network that the blocks were trained in; insert them if none are.

    Args:
        model: the host, plain or with the same blocks at the same places; it is changed in place.
        path: the file.
        builders: for blocks of the user's own, the builder by the name that the file gives it.

    Raises:
        StorageError: the file is missing, damaged or of another origin.
        UserError: the host lacks a place, holds other blocks, or a builder is missing. The model is then unchanged.
    """
    tensors, metadata = load_tensors(Path(path))
    if metadata.get("kind") != "context":
        raise StorageError(f"{path} is not a file of blocks alone but a {metadata.get('kind', 'file of unknown kind')}")
    records: list[dict[str, Any]] = metadata["insertions"]
    if inserted(model):
        if json.loads(json.dumps(insertion_records(model))) != records:
            raise UserError(f"the blocks of {path} are others than this network's, or elsewhere: remove these first")
        _load(model, tensors, path)
        return
    try:
        for record in records:
            insert_record(model, record, builders or {})
        _load(model, tensors, path)
    except BaseException:
        remove(model)
        raise


def _load(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Load the blocks' weights, which must fit name by name; the host's stay."""
    blocks = _context_state(model)
    host = {name: tensor for name, tensor in model.state_dict().items() if name not in blocks}
    load_strictly(model, {**tensors, **host}, str(path))


def _context_state(model: nn.Module) -> dict[str, Tensor]:
    """The part of the state dict that belongs to inserted blocks."""
    places = [place for insertion in inserted(model) for place in insertion.places]
    prefixes = tuple(f"{place.name}.context." for place in places)
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefixes)}
