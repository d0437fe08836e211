"""Prints the network, its weights, device, precision and threads before a command starts."""

import sys
from typing import TYPE_CHECKING, Any

from gcnet.errors import printable

if TYPE_CHECKING:
    from torch import nn


def report_network(model: "nn.Module", origin: str, weights: str | None) -> None:
    """Print the network with its blocks and classes, its weights, and the machine.

    Args:
        model: a trained network, on the device where it runs.
        origin: the model file, run folder or name that the user gave.
        weights: the weights given beside a name.
    """
    import torch

    from gcnet.insertion import inserted
    from gcnet.models.card import card_of
    from gcnet.models.weights import loaded_weights
    from gcnet.tasks.trained import model_path

    card, blocks = card_of(model), inserted(model)
    name = card.architecture or type(model).__name__
    kinds = ", ".join(dict.fromkeys(insertion.block for insertion in blocks))
    added = sum(insertion.parameters for insertion in blocks)
    described = [f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters"]
    if blocks:
        described.append(f"{added:,} of them in inserted blocks")
    if card.num_classes:
        described.append(f"{card.num_classes:,} classes")
    lines = [
        f"model: {name}{f' with {kinds}' if blocks else ''}: {', '.join(described)}",
        f"weights: {printable(str(loaded_weights(model) or weights or model_path(origin) or origin))}",
    ]
    first = next(model.parameters())
    threads = torch.get_num_threads()
    precision = str(first.dtype).removeprefix("torch.")
    lines.append(f"device: {first.device}, {precision}, {threads} thread{'s' * (threads != 1)}")
    print("\n".join(lines), file=sys.stderr)


def describe_resizing(detector: "nn.Module") -> str:
    """What a detector resizes images to."""
    transform: Any = detector.transform
    short, long = transform.min_size[-1], transform.max_size
    sides = f"a short side of {short:,} and " if short < long else ""
    return f"resized to {sides}a long side of at most {long:,} pixels"
