"""Costs of blocks, attention, and statistics of differences between runs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcnet.analysis.distances import average_cosine_distance, average_jensen_shannon, estimate_jensen_shannon

__all__ = ["average_cosine_distance", "average_jensen_shannon", "estimate_jensen_shannon"]

# Read on first use, so that the statistics of a report do not import torch.
_HOMES = dict.fromkeys(__all__, "gcnet.analysis.distances")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gcnet.analysis' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
