"""Fusions of the transformed context with the map, `(x, term) -> y`, by broadcasting."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.framework.channel_transforms import per_channel
from gcnet.framework.overriding import Overridable
from gcnet.framework.pointwise import Pointwise


class Fusion(nn.Module, ABC):
    """Base class of fusions that can overwrite their map, since the gradient does not need their result."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "n c *s"], term: Float[Tensor, "n c *t"], *, out: Tensor | None = None
    ) -> Float[Tensor, "n c *s"]:
        """Fuse the term into the map.

        Args:
            x: the map.
            term: the transformed context, of any shape that broadcasts over `x`.
            out: tensor to write the result to, (N, C, *S); may be `x` itself where gradients are off. None for a new
                tensor.

        Returns:
            The fused map.
        """


class AffineFusion(Overridable, Fusion):
    """Base class of fusions `y = gate * x` or `y = x + shift`, with a gate or shift from the term alone."""

    equivalents = ("coefficients",)

    @abstractmethod
    def coefficients(
        self, term: Float[Tensor, "n c *t"], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "n c *t"] | None, Float[Tensor, "n c *t"] | None]:
        """Return gate and shift; exactly one of them is None.

        Args:
            term: the transformed context.
            dtype: of the map.
        """

    def forward(
        self, x: Float[Tensor, "n c *s"], term: Float[Tensor, "n c *t"], *, out: Tensor | None = None
    ) -> Float[Tensor, "n c *s"]:
        gate, shift = self.coefficients(term, x.dtype)
        if gate is not None:
            return torch.mul(x, gate, out=out)
        assert shift is not None, "an affine fusion has a gate or a shift"
        return torch.add(x, shift, out=out)


class Add(AffineFusion):
    """`y = x + term`."""

    def coefficients(
        self,
        term: Float[Tensor, "n c *t"],
        dtype: torch.dtype,  # noqa: ARG002
    ) -> tuple[None, Float[Tensor, "n c *t"]]:
        return None, term


class Scale(AffineFusion):
    """`y = x * sigmoid(term)` (arXiv 1709.01507, eq. 3-4)."""

    def coefficients(
        self,
        term: Float[Tensor, "n c *t"],
        dtype: torch.dtype,  # noqa: ARG002
    ) -> tuple[Float[Tensor, "n c *t"], None]:
        return term.sigmoid(), None


class DoubledScale(AffineFusion):
    """`y = x * 2 sigmoid(term)`: the identity where the term is zero."""

    def coefficients(self, term: Float[Tensor, "n c *t"], dtype: torch.dtype) -> tuple[Float[Tensor, "n c *t"], None]:
        return (2 * term.sigmoid()).to(dtype), None


class HardScale(AffineFusion):
    """`y = x * hardsigmoid(term)`, `hardsigmoid(z) = min(max(z + 3, 0), 6) / 6` (eSE, arXiv 1911.06667).

    Args:
        doubled: double the gate, so that it is one where the term is zero; its gradient is still zero outside [-3, 3].
    """

    def __init__(self, *, doubled: bool) -> None:
        super().__init__()
        self.doubled = doubled

    def coefficients(self, term: Float[Tensor, "n c *t"], dtype: torch.dtype) -> tuple[Float[Tensor, "n c *t"], None]:
        gate = F.hardsigmoid(term).to(dtype)
        return 2 * gate if self.doubled else gate, None

    def extra_repr(self) -> str:
        return f"doubled={self.doubled}"


class Multiply(AffineFusion):
    """`y = x * term`: the transform has made a gate already."""

    def coefficients(self, term: Float[Tensor, "n c *t"], dtype: torch.dtype) -> tuple[Float[Tensor, "n c *t"], None]:
        return term.to(dtype), None


class ResidualScale(Fusion):
    """`y = x * (1 + term)`, as `x + x * term`, which keeps a small term in half precision."""

    def forward(
        self, x: Float[Tensor, "n c *s"], term: Float[Tensor, "n c *t"], *, out: Tensor | None = None
    ) -> Float[Tensor, "n c *s"]:
        return torch.addcmul(x, x, term.to(x.dtype), out=out)


class ShiftedScale(Fusion):
    """`y = x * (1 + term) + b_c` with a learned b, initially zero (GRN, arXiv 2301.00808, algorithm 1).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set b to 0."""
        nn.init.zeros_(self.bias)

    def forward(
        self, x: Float[Tensor, "n c *s"], term: Float[Tensor, "n c *t"], *, out: Tensor | None = None
    ) -> Float[Tensor, "n c *s"]:
        return torch.addcmul(x + per_channel(self.bias, x), x, term.to(x.dtype), out=out)


class Distribute(Fusion):
    """`y_i = x_i + sum_s softmax_s(W_q x_i) term_s`: every query position mixes the terms of the slots.

    Args:
        query: channels of the map -> slots.
    """

    def __init__(self, query: Pointwise) -> None:
        super().__init__()
        self.query = query

    def forward(
        self, x: Float[Tensor, "n c *s"], term: Float[Tensor, "n c k"], *, out: Tensor | None = None
    ) -> Float[Tensor, "n c *s"]:
        return torch.add(x, torch.bmm(term, self.mixture(x).flatten(2).to(term.dtype)).view(x.shape), out=out)

    def mixture(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n k *s"]:
        """Return the weights of the slots at each position of `x`, summing to one over slots."""
        logits = self.query(x)
        return torch.softmax(logits, dim=1, dtype=torch.promote_types(logits.dtype, torch.float32))
