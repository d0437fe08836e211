"""The block: one context of the map, then each branch's transform and fusion in turn (arXiv 1904.11492, eq. 3)."""

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import Proxy

from gcnet.errors import UserError
from gcnet.framework.fusion import Fusion
from gcnet.framework.observed import is_observed


class Branch(nn.Module):
    """One transform of the context, and the fusion of its result into the map."""

    def __init__(self, transform: nn.Module, fusion: nn.Module) -> None:
        super().__init__()
        self.transform = transform
        self.fusion = fusion

    def forward(
        self, x: Float[Tensor, "n c *s"], context: Float[Tensor, "n d *t"], *, overwrite: bool = False
    ) -> Float[Tensor, "n c *s"]:
        into = {"out": x} if overwrite else {}
        return self.fusion(x, self.transform(context), **into)


class ContextBlock(nn.Module):
    """`c = context(x)`, then for each branch `x = fusion(x, transform(c))`; shape, dtype and memory format stay.

    Args:
        context: `(N, C, *S) -> (N, C', 1, ...)` or `(N, C', *S)`.
        branches: in the order in which they act; their names are the first word of their state-dict keys.
        channels: C of the maps it is given.
        dims: spatial axes of the maps it is given: 1, 2 or 3.

    Raises:
        ValueError: a map of another number of axes or channels is passed.
    """

    def __init__(self, context: nn.Module, branches: Mapping[str, Branch], *, channels: int, dims: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.dims = dims
        self.context = context
        self.branch_names = tuple(branches)
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *s"]:
        """The map with its context fused in, as a new map."""
        return self._fused(x, overwrite=False)

    def forward_in_place(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *s"]:
        """As calling the block, for a map that no other code reads: where possible the result is written over it.

        A new map is returned where gradients are on, where the network is traced, compiled or exported, and where a
        hook on the block or on a part of it could see the map change.
        """
        if torch.is_grad_enabled() or isinstance(x, Proxy) or is_observed(self) or not self.fuses_in_place:
            return self(x)
        return self._fused(x, overwrite=True)

    def _fused(self, x: Tensor, *, overwrite: bool) -> Tensor:
        if isinstance(x, Proxy):  # Symbolic tracing: the block is one node of the graph.
            tracer: Any = x.tracer
            return tracer.create_proxy("call_module", tracer.path_of_module(self), (x,), {})
        if x.dim() != self.dims + 2 or x.shape[1] != self.channels:
            axes = ", ".join(["N", str(self.channels), *"THW"[3 - self.dims :]])
            raise ValueError(f"this block takes maps of shape ({axes}), found {tuple(x.shape)}")
        context = self.context(x)
        for name in self.branch_names:
            x = getattr(self, name)(x, context, overwrite=overwrite)
        return x

    @property
    def fuses_in_place(self) -> bool:
        """Whether all fusions can write over the map, and no gradient needs the block's result."""
        return all(isinstance(getattr(self, name).fusion, Fusion) for name in self.branch_names)

    def __prepare_scriptable__(self) -> NoReturn:
        """Called by `torch.jit.script` on every module of a network.

        Raises:
            UserError: always; blocks cannot be compiled from their source.
        """
        raise UserError("torch.jit.script does not support context blocks: use torch.export.export, or torch.jit.trace")

    def extra_repr(self) -> str:
        return f"channels={self.channels}, dims={self.dims}"
