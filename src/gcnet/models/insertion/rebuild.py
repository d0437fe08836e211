"""Inserting again what a file says was inserted."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from gcnet.blocks import Builder
from gcnet.errors import UserError, nearest
from gcnet.models.insertion.choice import Choice
from gcnet.models.insertion.insert import insert, put
from gcnet.models.insertion.installed import Request, next_order
from gcnet.models.insertion.layout import Layout
from gcnet.models.insertion.records import check_record


def insert_record(model: nn.Module, record: Mapping[str, Any], builders: Mapping[str, Builder]) -> None:
    """Insert the blocks that one record of `insertion_records` describes; the network is not run for it.

    Raises:
        UserError: the record is invalid, the network lacks a place, or `builders` a builder of the user's own.
    """
    check_record(record)
    name: str = record["block"]
    if record["custom"] and name not in builders:
        raise UserError(f'the block "{name}" is your own: pass builders={{"{name}": builder}}')
    block = builders[name] if record["custom"] else name
    told = {key: record[key] for key in ("ratio", "stages", "blocks", "position")}
    if "places" not in record:  # Files from before any network could be a host.
        insert(model, block, **told, **record["options"])
        return
    places = {
        place["name"]: Layout(**{key: place[key] for key in place if key != "name"}) for place in record["places"]
    }
    names = {name for name, _ in model.named_modules()}
    for place in places:
        if place not in names:
            raise UserError(f"blocks were inserted at {place}, which this network does not have{nearest(place, names)}")
    request = Request(next_order(model), name, record["custom"], **told, options=dict(record["options"]))
    put(model, block, request, Choice(places, record["position"], record["stages"], None, None))
