"""Samples that both sides of a comparison draw alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def fixed_samples() -> Iterator[None]:
    """Samplers take candidates in an order that depends on their number alone."""
    permutation = torch.randperm

    def fixed(count: int, **_: Any) -> Tensor:
        return permutation(count, generator=torch.Generator().manual_seed(count))

    torch.randperm = fixed
    try:
        yield
    finally:
        torch.randperm = permutation
