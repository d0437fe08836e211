"""Files of context blocks alone: weights and sites, whatever tools have wrapped the modules in."""

import json
from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gcnet.blocks import Builder, find_builder
from gcnet.checkpoints.foreign_files import weight_format
from gcnet.errors import UserError, printable
from gcnet.insertion import insert_record, inserted, insertion_records, refuse_fused, remove
from gcnet.insertion.record import check_record
from gcnet.models.card import check_block_weights
from gcnet.models.plain_weights import plain_name, plain_weights, unwrapped
from gcnet.renamed import FORMAT_VERSION, upgraded_metadata
from gcnet.storage import StorageError
from gcnet.tensor_files import load_tensors, save_tensors

Record = dict[str, Any]


def save_context(model: nn.Module, path: str | Path) -> None:
    """Write the weights and sites of inserted blocks to one small `.safetensors` file, atomically, with a checksum.

    Names are those of the plain network, without wrappers of compiling, parallel training or peft. Pruned and
    weight-normalized layers are saved with their effective weights.

    Args:
        model: a network with blocks, plain or wrapped.
        path: the file.

    Raises:
        UserError: there are no inserted blocks, weights are sharded (FSDP) or offloaded, or the network is one of
            `gcnet.fuse`.
        StorageError: the file cannot be written; an old one at `path` is then untouched.
    """
    refuse_fused(model, "saved")
    blocks = _blocks(model)
    if not blocks:
        raise UserError(f"this {type(model).__name__} has no inserted blocks to save")
    tensors = {
        f"{_context_name(site)}.{key}": tensor
        for site, module in blocks.items()
        for key, tensor in plain_weights(module.get_submodule("context"), _context_name(site)).items()
    }
    widths = {site: _widths(module) for site, module in blocks.items()}
    save_tensors(
        Path(path),
        tensors,
        {"kind": "context", "format_version": FORMAT_VERSION, "insertions": _records(model), "widths": widths},
    )


def load_context(model: nn.Module, path: str | Path, *, builders: Mapping[str, Builder] | None = None) -> None:
    """Load a file of `save_context` into the network of its blocks; insert them if there are none.

    Args:
        model: the base model, plain or with the same blocks at the same sites; changed in place.
        path: the file.
        builders: builders of your own blocks, by the name in the file.

    Raises:
        StorageError: the file is missing, damaged or of another origin.
        UserError: the base model lacks a site, has other channels there, or holds other blocks, or a builder is
            missing. The model is then unchanged.
    """
    if Path(path).is_file():
        weight_format(Path(path))
    tensors, metadata = load_tensors(Path(path))
    metadata = upgraded_metadata(metadata, path)
    records = _checked_records(metadata, path)
    check_block_weights(records, tensors, printable(path))
    _require_widths(model, records, metadata.get("widths"), path)
    if inserted(model):
        _require_same(_records(model), records, path)
        _load(model, tensors, path)
        return
    try:
        for record in records:
            insert_record(model, record, builders or {})
        _load(model, tensors, path)
    except BaseException:
        remove(model)
        raise


def _checked_records(metadata: Mapping[str, Any], path: str | Path) -> list[Record]:
    if metadata.get("kind") != "context":
        kind = printable(str(metadata.get("kind", "file of unknown kind")))
        raise StorageError(f"{path} is not a file of blocks but a {kind}")
    records = metadata.get("insertions")
    if not isinstance(records, list) or not records:
        raise StorageError(f"{path} is damaged or was edited: it does not list the insertions of its blocks")
    for record in records:
        try:
            check_record(record)
        except UserError as error:
            raise StorageError(f"{path}: {error}") from error
    return records


def _blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that run a block, by name in the plain network."""
    names = [site.name for insertion in inserted(model) for site in insertion.sites]
    return {plain_name(model, name): model.get_submodule(name) for name in names}


def _records(model: nn.Module) -> list[Record]:
    """`insertion_records` with names of the plain network, as JSON gives them back."""
    records = insertion_records(model)
    for record in records:
        record["places"] = [site | {"name": plain_name(model, site["name"])} for site in record["places"]]
    return json.loads(json.dumps(records))


def _context_name(site: str) -> str:
    return f"{site}.context" if site else "context"


def _widths(module: nn.Module) -> dict[str, int]:
    """The lengths of the module's own vectors, which distinguish widths of a network."""
    return {
        name: parameter.shape[0]
        for name, parameter in module.named_parameters()
        if parameter.dim() == 1 and not name.startswith("context.") and ".context." not in name
    }


def _require_widths(model: nn.Module, records: Sequence[Record], widths: object, path: str | Path) -> None:
    """Raise UserError if a site has vectors of the same names and other lengths than in the file."""
    known = dict(widths) if isinstance(widths, Mapping) else {}  # Older files have none.
    for record in records:
        if record["position"] is not None:
            norm = "bn2" if record["position"] == "after_conv2" else "bn3"
            for site in record.get("places", ()):
                known.setdefault(site["name"], {f"{norm}.weight": site["channels"]})
    modules = {plain_name(model, name): module for name, module in model.named_modules()}
    for site, lengths in known.items():
        if not isinstance(lengths, Mapping) or site not in modules:
            continue
        own = _widths(modules[site])
        for name in lengths.keys() & own.keys():
            if lengths[name] != own[name]:
                raise UserError(
                    f"{path} is from a network of another width: {printable(site)}.{name} has {lengths[name]} "
                    f"channels there and {own[name]} here"
                )


def _require_same(own: Sequence[Record], given: Sequence[Record], path: str | Path) -> None:
    """Raise UserError unless both describe the same blocks at the same sites."""
    here, there = _described(own), _described(given)
    for site in there:
        if site not in here:
            raise UserError(
                f"{path} has a block at {site}, where this network has none; gcnet.remove(model) removes its blocks"
            )
        if here[site] != there[site]:
            raise UserError(
                f"the block of {path} at {site} differs from this network's: {_difference(there, here, site)}; "
                "gcnet.remove(model) removes its blocks"
            )
    extra = sorted(set(here) - set(there))
    if extra:
        raise UserError(
            f"this network has a block at {', '.join(extra[:3])}, for which {path} has no weights; "
            "gcnet.remove(model) removes its blocks"
        )


def _described(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """The block of every site with the defaults of its options; the ratio is in the shapes of the weights."""
    blocks = {}
    for record in records:
        options = dict(record["options"])
        if not record["custom"]:
            parameters = signature(find_builder(record["block"])).parameters.values()
            defaults = {item.name: item.default for item in parameters if item.default is not Parameter.empty}
            options = {key: value for key, value in (defaults | options).items() if key not in ("ratio", "dims")}
        for site in record.get("places", ()):
            layout = {key: value for key, value in site.items() if key != "name"}
            blocks[site["name"]] = {"block": record["block"], "position": record["position"], **layout, **options}
    return blocks


def _difference(there: Mapping[str, Mapping[str, Any]], here: Mapping[str, Mapping[str, Any]], site: str) -> str:
    keys = [*there[site], *here[site]]
    key = next(key for key in keys if there[site].get(key) != here[site].get(key))
    return f"{key} {there[site].get(key)} instead of {here[site].get(key)}"


def _load(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Load the weights of all blocks, which must match key by key; else nothing is changed."""
    loads = []
    known = set()
    for site, module in _blocks(model).items():
        block, prefix = unwrapped(module.get_submodule("context")), f"{_context_name(site)}."
        weights = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        own = block.state_dict()
        _require_fit(own, weights, prefix, path)
        known |= {prefix + key for key in weights}
        loads.append((block, weights))
    foreign = sorted(set(tensors) - known)
    if foreign:
        raise StorageError(f"{path} holds weights without a block: {printable(foreign[0])}")
    for block, weights in loads:
        block.load_state_dict(weights, strict=False)


def _require_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], prefix: str, path: str | Path) -> None:
    for key in sorted(own.keys() | weights.keys()):
        if key.rpartition(".")[2] in ("total_ops", "total_params"):
            continue
        if key in own and key in weights and own[key].shape == weights[key].shape:
            continue
        shapes = [tuple(tensors[key].shape) if key in tensors else "none" for tensors in (own, weights)]
        raise UserError(
            f"the weights of {path} do not fit this network's blocks: {printable(prefix + key)} has shape {shapes[0]} "
            f"here and {shapes[1]} in the file"
        )
