"""What is measured on a GPU: pieces of work on the same input, each compared with one of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from benchmarks.turns import Work


@dataclass(frozen=True)
class Precision:
    """A dtype or "bf16 autocast", and a memory format: contiguous or channels_last."""

    dtype: str
    layout: str

    @property
    def memory_format(self) -> torch.memory_format:
        """As PyTorch names it."""
        return torch.channels_last if self.layout == "channels_last" else torch.contiguous_format


@dataclass(frozen=True)
class Case:
    """Works that take turns.

    Attributes:
        task: that all of them do.
        precision: of all.
        shape: of the input.
        works: by name of the contestant.
        against: the contestant that the others are compared with.
        minimum_bytes: that a contestant must read and write at least, where that is known.
    """

    task: str
    precision: Precision
    shape: tuple[int, ...]
    works: Mapping[str, Work]
    against: str
    minimum_bytes: Mapping[str, int] = field(default_factory=dict)
