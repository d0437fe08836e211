"""Other blocks in some places of a network, which is rebuilt as from a model file and keeps its other weights."""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from gcnet.errors import UserError
from gcnet.models.files import card_of, insert_record, load_strictly, set_card
from gcnet.models.insertion import insert, insertion_records
from gcnet.models.names import build_host


def substitute(model: nn.Module, places: Collection[str], block: str, *, ratio: float | None = None) -> nn.Module:
    """A new network like `model`, in eval mode, its weights copied, but with new blocks in `places`.

    Args:
        model: a network of `create_model` or `load_model` with inserted blocks; it stays as it is.
        places: names of residual blocks that have a block (`layer3.4`); the new one acts at the same position.
        block: a name of `gcnet.list_blocks()`.
        ratio: the paper's r; None for the default of `gcnet.insert`.

    Raises:
        UserError: `create_model` does not know the host, a place has no block, or `gcnet.insert` refuses the new one.
    """
    card = card_of(model)
    if card.architecture is None:
        raise UserError("blocks are replaced in networks that create_model knows, and this one is of your own")
    with torch.device("meta"):
        counted = build_host(card.architecture, card.num_classes, card.detector)
    example = next(model.parameters())
    rebuilt = build_host(card.architecture, card.num_classes, card.detector).to(example.device, example.dtype)
    missing = set(places)
    for record in insertion_records(model):
        for stage in record["stages"]:
            indices = _indices(counted, record, stage)
            kept = [index for place, index in indices.items() if place not in places]
            if kept:
                insert_record(rebuilt, record | {"stages": [stage], "blocks": kept}, {})
            replaced = [index for place, index in indices.items() if place in places]
            missing -= set(indices)
            if replaced:
                insert(rebuilt, block, ratio=ratio, stages=[stage], blocks=replaced, position=record["position"])
    if missing:
        raise UserError(f"places must be residual blocks with an inserted block, found {', '.join(sorted(missing))}")
    replaced_weights = tuple(f"{place}.context." for place in places)
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(replaced_weights)}
    load_strictly(rebuilt, rebuilt.state_dict() | weights, "the network")
    set_card(rebuilt, card)
    return rebuilt.eval()


def _indices(host: nn.Module, record: dict[str, Any], stage: int) -> dict[str, int]:
    """The residual blocks of one stage that a record puts a block into, and their indices; `host` is used up by it."""
    found = insert(host, nn.Identity, stages=[stage], blocks=record["blocks"], position=record["position"])
    return {place.name: int(place.name.rpartition(".")[2]) for place in found.places}
