"""Fusions: how the transformed context enters the map, `(x, term) -> y` by broadcasting."""

from jaxtyping import Float
from torch import Tensor, nn


class Add(nn.Module):
    """`y = x + term`."""

    def forward(self, x: Float[Tensor, "n c *s"], term: Float[Tensor, "n c *t"]) -> Float[Tensor, "n c *s"]:
        return x + term


class Scale(nn.Module):
    """`y = x * sigmoid(term)` (arXiv 1709.01507, eq. 3-4)."""

    def forward(self, x: Float[Tensor, "n c *s"], term: Float[Tensor, "n c *t"]) -> Float[Tensor, "n c *s"]:
        return x * term.sigmoid()
