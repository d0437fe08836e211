"""Metadata of exported files: source, version, task and blocks, as text."""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from torch import nn

from gcnet.insertion import insertion_records
from gcnet.models.card import card_of, network_name


def model_metadata(model: nn.Module, *, task: str, source: Path | None) -> Mapping[str, str]:
    """Return the metadata of a network that do not depend on its task.

    Args:
        model: the network.
        task: name of its task.
        source: file of its weights, if known.

    Returns:
        `gcnet_version`, `task`, `model`, `architecture`, `blocks` (records of `gcnet.insert`, JSON), and of a file
        `source` and `source_sha256`.
    """
    card = card_of(model)
    entries = {
        "gcnet_version": version("gcnet"),
        "task": task,
        "model": network_name(model),
        "architecture": card.architecture or type(model).__name__,
        "blocks": json.dumps(list(insertion_records(model))),
    }
    if source is not None:
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        entries |= {"source": source.name, "source_sha256": digest}
    return entries
