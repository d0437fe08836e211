"""The block: a context of the map, then a transform and a fusion for each branch (arXiv 1904.11492, eq. 3)."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from gcnet.framework.observers import is_hooked, is_recorded
from gcnet.framework.overriding import Overridable, is_overridden
from gcnet.framework.tracing import NotScriptable, one_graph_node


class Branch(Overridable, nn.Module):
    """A transform of the context, and the fusion of the result with the map.

    Args:
        transform: `(N, C', ...) -> (N, C, ...)`.
        fusion: `(x, term) -> y`, by broadcasting.
    """

    equivalents = ("transform", "fusion")

    def __init__(self, transform: nn.Module, fusion: nn.Module) -> None:
        super().__init__()
        self.transform = transform
        self.fusion = fusion

    def forward(self, x: Float[Tensor, "n c *s"], context: Float[Tensor, "n d *t"]) -> Float[Tensor, "n c *s"]:
        return self.fusion(x, self.transform(context))


class ContextBlock(Overridable, NotScriptable):
    """`c = context(x)`, then for each branch `x = fusion(x, transform(c))`; shape, dtype and memory format stay.

    Args:
        context: `(N, C, *S) -> (N, C', 1, ...)` or `(N, C', *S)`.
        branches: branches by name, in the order in which they act; names are the first part of their state-dict keys.
        channels: C of the maps.
        dims: number of spatial axes of the maps: 1, 2 or 3.

    Example:
        >>> import torch
        >>> from gcnet.framework import Add, AttentionPool, Branch, ContextBlock, Pointwise
        >>> block = ContextBlock(AttentionPool(8), {"add": Branch(Pointwise(8, 8), Add())}, channels=8)
        >>> block(torch.rand(2, 8, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
    """

    equivalents = ("branches",)

    def __init__(self, context: nn.Module, branches: Mapping[str, Branch], *, channels: int, dims: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.dims = dims
        self.context = context
        self.branch_names = tuple(branches)
        for name, branch in branches.items():
            self.add_module(name, branch)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches in the order in which they act."""
        return tuple(getattr(self, name) for name in self.branch_names)

    @one_graph_node
    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *s"]:
        """Return `x` with its context fused in.

        Raises:
            ValueError: `x` has another number of axes or channels.
        """
        self.check_shape(x)
        x, context = self._map_and_context(x)
        for branch in self.branches:
            x = branch(x, context)
        return x

    def _map_and_context(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map and its context, by one function with one gradient if the context has such a function."""
        with_map = None if is_overridden(self.context) else getattr(self.context, "with_map", None)
        if with_map is None or not x.requires_grad or is_recorded() or is_hooked(self.context):
            return x, self.context(x)
        return with_map(x)

    @property
    def is_composed(self) -> bool:
        """Whether the block is its context and branches, without a forward method of a subclass, and has a branch."""
        branches = self.branches
        return bool(branches) and not (is_overridden(self) or any(map(is_overridden, branches)))

    def check_shape(self, x: Tensor) -> None:
        """Check that `x` has the shape (N, C, *S).

        Raises:
            ValueError: `x` has another number of axes or channels.
        """
        if x.dim() != self.dims + 2 or x.shape[1] != self.channels:
            axes = ", ".join(["N", str(self.channels), *"THW"[3 - self.dims :]])
            raise ValueError(f"this block takes maps of shape ({axes}), found {tuple(x.shape)}")

    def extra_repr(self) -> str:
        return f"channels={self.channels}, dims={self.dims}"
