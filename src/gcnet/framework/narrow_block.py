"""Blocks on the narrow input `h` of a 1x1 convolution instead of its wide output `y_j = W h_j + b` (docs/fusion.md).

The context of many blocks is linear in the map once its attention is known, and the logits of the attention are linear
in it: `w . y_j = (W^T w) . h_j + const`, where the softmax cancels the constant, and
`sum_j a_j y_j = W (sum_j a_j h_j) + b` for weights that sum to one.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.framework.block import Branch, ContextBlock
from gcnet.framework.fusion import Add, AffineFusion
from gcnet.framework.narrow_contexts import (
    LinearContext,
    NarrowAttention,
    NarrowContext,
    can_pool_one_image,
    is_one_image,
)
from gcnet.framework.narrow_transforms import VectorBottleneck, VectorLinear, narrow_transform
from gcnet.framework.overriding import has_other_parts, is_overridden
from gcnet.framework.tracing import NotScriptable


class NarrowBlock(NotScriptable, ABC):
    """The gate and shift of each channel of `y = W h + b` that a block computes, from `h`: it returns `gate y + shift`.

    Made by `narrow_block`.

    Args:
        pool: pools `h` into vectors.
        block_parameters: number of parameters of the block on `y`.
        adds_bias: whether the shift includes the bias of the convolution, which then needs none.

    Reference:
        docs/fusion.md.
    """

    def __init__(self, pool: nn.Module, *, block_parameters: int, adds_bias: bool) -> None:
        super().__init__()
        self.pool: Any = pool
        self.block_parameters, self.adds_bias = block_parameters, adds_bias

    @abstractmethod
    def forward(
        self, h: Float[Tensor, "n k *s"]
    ) -> tuple[Float[Tensor, "n c *one"] | None, Float[Tensor, "n c *one"] | Float[Tensor, " c"] | None]:
        """Return the gate and the shift.

        Args:
            h: input of the convolution.

        Returns:
            The gate, or None for 1, and the shift, or None for 0. The shift of one image without a gate may be (C,).
        """


class ComposedNarrowBlock(NarrowBlock):
    """Pooling of `h`, and a transform and fusion for each branch.

    Args:
        pool: as of `NarrowBlock`.
        branches: their transforms take the pooled vectors, and their fusions are of the class `AffineFusion`.
        block_parameters: as of `NarrowBlock`.
        adds_bias: as of `NarrowBlock`.
    """

    def __init__(self, pool: nn.Module, branches: Sequence[Branch], *, block_parameters: int, adds_bias: bool) -> None:
        super().__init__(pool, block_parameters=block_parameters, adds_bias=adds_bias)
        self.branches = nn.ModuleList(branches)

    def forward(
        self, h: Float[Tensor, "n k *s"]
    ) -> tuple[Float[Tensor, "n c *one"] | None, Float[Tensor, "n c *one"] | Float[Tensor, " c"] | None]:
        pooled = self.pool(h)
        if pooled.dim() > 2:
            pooled = pooled.flatten(1)
        gate: Tensor | None = None
        shift: Tensor | None = None
        for branch in cast(Iterable[Any], self.branches):
            scale, offset = branch.fusion.coefficients(branch.transform(pooled), h.dtype)
            if scale is not None:
                gate = scale if gate is None else gate * scale
                shift = shift if shift is None else shift * scale
            if offset is not None:
                shift = offset if shift is None else shift + offset
        if gate is None and shift is not None and is_one_image(h):
            return None, shift.view(-1).to(h.dtype)
        return _as_map(gate), _as_map(shift)


class NarrowGlobalContext(NarrowBlock):
    """A `gc` block with one head, LayerNorm and addition, for one image in as few operations as possible.

    Args:
        pool: attention pooling of `h`.
        bottleneck: of the pooled vector.
        block_parameters: as of `NarrowBlock`.
    """

    def __init__(self, pool: NarrowAttention, bottleneck: VectorBottleneck, *, block_parameters: int) -> None:
        super().__init__(pool, block_parameters=block_parameters, adds_bias=True)
        self.bottleneck = bottleneck
        layers: Any = (bottleneck.reduce, bottleneck.norm, bottleneck.expand)
        self.key = nn.Parameter(pool.keys[0], requires_grad=False)
        for name, value in _named(layers):
            self.register_parameter(name, value)
        self.eps: float = layers[1].eps

    def forward(self, h: Float[Tensor, "n k *s"]) -> tuple[None, Float[Tensor, "n c 1 1"] | Float[Tensor, " c"]]:
        # Between two convolutions, looking up an attribute or making a view costs as much as some of the operations.
        parameters: Any = self._parameters.values()
        key, reduce, reduce_bias, gamma, beta, expand, expand_bias = parameters
        if not can_pool_one_image(h, key):
            return None, self.bottleneck(self.pool(h))[..., None, None]
        flat = h.reshape(h.shape[1], -1)
        pooled = torch.mv(flat, torch.softmax(torch.mv(flat.t(), key), 0))
        hidden = torch.layer_norm(torch.addmv(reduce_bias, reduce, pooled), gamma.shape, gamma, beta, self.eps)
        return None, torch.addmv(expand_bias, expand, hidden.relu_())


def _named(layers: Sequence[Any]) -> Iterator[tuple[str, nn.Parameter]]:
    for name, layer in zip(("reduce", "norm", "expand"), layers, strict=True):
        yield f"{name}_weight", layer.weight
        yield f"{name}_bias", layer.bias


def narrow_block(block: ContextBlock, weight: Float[Tensor, "c k"], bias: Float[Tensor, " c"]) -> NarrowBlock:
    """Return a block on `h` instead of `y = weight h + bias`.

    Args:
        block: the block on `y`, for which `why_not_narrow` gives no reason.
        weight: of the convolution.
        bias: of the convolution.

    Raises:
        TypeError: the context of the block is not linear in the map.
    """
    if not isinstance(block.context, LinearContext):
        raise TypeError(f"the context must be linear in the map, found {type(block.context).__name__}")
    context = block.context.narrow(weight, bias)
    branches = [Branch(narrow_transform(branch.transform, context), branch.fusion) for branch in block.branches]
    parameters = sum(parameter.numel() for parameter in block.parameters())
    adds_bias = _add_bias(branches, bias)
    transform = branches[0].transform
    if adds_bias and len(branches) == 1 and isinstance(transform, VectorBottleneck) and _is_global(context, transform):
        found: NarrowBlock = NarrowGlobalContext(context.pool, transform, block_parameters=parameters)
    else:
        found = ComposedNarrowBlock(context.pool, branches, block_parameters=parameters, adds_bias=adds_bias)
    return found.requires_grad_(False)


def _is_global(context: NarrowContext, transform: VectorBottleneck) -> bool:
    pool = context.pool
    return isinstance(pool, NarrowAttention) and len(pool.keys) == 1 and type(transform.norm) is nn.LayerNorm


@torch.no_grad()
def _add_bias(branches: Sequence[Branch], bias: Float[Tensor, " c"]) -> bool:
    """Add the bias to the last layer of a block that only adds, if it has one."""
    ends = [getattr(branch.transform, "expand", branch.transform) for branch in branches]
    layers = [layer for layer in ends if isinstance(layer, VectorLinear)]
    if not layers or any(type(branch.fusion) is not Add for branch in branches):
        return False
    layers[0].bias = nn.Parameter(layers[0].bias + bias)
    return True


def _as_map(vectors: Tensor | None) -> Tensor | None:
    return vectors if vectors is None or vectors.dim() == 4 else vectors[..., None, None]


def why_not_narrow(block: nn.Module) -> str | None:
    """Return why a block cannot be computed before the convolution, or None.

    Args:
        block: the block.
    """
    if not isinstance(block, ContextBlock):
        return f"a {type(block).__name__} is not a block of gcnet"
    context = block.context
    if not block.is_composed:
        return "it has a forward method of its own, or no branch"
    if not isinstance(context, LinearContext) or is_overridden(context) or has_other_parts(context):
        return f"its context, {type(context).__name__}, is not known to be linear in the map"
    for branch in block.branches:
        if not isinstance(branch.fusion, AffineFusion) or is_overridden(branch.fusion):
            return f"its fusion, {type(branch.fusion).__name__}, is not the same at every position"
    return None
