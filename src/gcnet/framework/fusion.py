"""Fusions: how the transformed context enters the map, `(x, term) -> y` by broadcasting."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Fusion(nn.Module, ABC):
    """A fusion that can write over its map, and whose gradient does not need its result."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "n c *s"], term: Float[Tensor, "n c *t"], *, out: Tensor | None = None
    ) -> Float[Tensor, "n c *s"]:
        """Fuse into `out`, which may be `x` itself where gradients are off, or into a new map."""


class Add(Fusion):
    """`y = x + term`."""

    def forward(
        self, x: Float[Tensor, "n c *s"], term: Float[Tensor, "n c *t"], *, out: Tensor | None = None
    ) -> Float[Tensor, "n c *s"]:
        return torch.add(x, term, out=out)


class Scale(Fusion):
    """`y = x * sigmoid(term)` (arXiv 1709.01507, eq. 3-4)."""

    def forward(
        self, x: Float[Tensor, "n c *s"], term: Float[Tensor, "n c *t"], *, out: Tensor | None = None
    ) -> Float[Tensor, "n c *s"]:
        return torch.mul(x, term.sigmoid(), out=out)
