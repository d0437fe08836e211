"""Pointwise linear layer (1x1 convolution) for any number of spatial axes."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def pointwise(
    x: Float[Tensor, "n c_in *s"], weight: Float[Tensor, "c_out c_in"], bias: Float[Tensor, "c_out"]
) -> Float[Tensor, "n c_out *s"]:
    """Return `weight x_j + bias` at every position j.

    A single position skips the overhead of a convolution.

    Args:
        x: the map.
        weight: the matrix.
        bias: the bias.
    """
    if math.prod(x.shape[2:]) == 1:
        return F.linear(x.flatten(1), weight, bias).view(x.shape[0], weight.shape[0], *x.shape[2:])
    return _CONVOLUTIONS[x.dim()](x, weight.view(*weight.shape, *[1] * (x.dim() - 2)), bias)


Operation = Callable[[Tensor, Tensor, Tensor], Any]


class Pointwise(nn.Module):
    """`y_j = W x_j + b` at every position j: a 1x1 convolution for maps with 1, 2 or 3 spatial axes.

    Neither a convolution nor a linear layer for `isinstance`, so a base model that initializes all its convolutions and
    linear layers does not change it; `reset_parameters` restores the block's own initialization.

    Args:
        in_channels: channels of `x`.
        out_channels: channels of `y`.
        initialize: initializes weight (out, in) and bias (out,) in place; None for `uniform`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, initialize: Callable[["Pointwise"], None] | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self._initialize = initialize or uniform
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize weight and bias again."""
        self._initialize(self)

    def forward(self, x: Float[Tensor, "n c_in *s"], operation: Operation = pointwise) -> Any:
        """Apply `operation(x, weight, bias)`, by default the linear layer itself.

        An operation that is fused with the layer runs in here, so that hooks that prepare the weights of a layer
        (pruning, offloading, sharding) prepare them for it, too.

        Args:
            x: the map.
            operation: function of map, weight (out, in) and bias (out,).

        Returns:
            The result of the operation.
        """
        return operation(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


def uniform(layer: Pointwise) -> None:
    """Initialize `layer` as PyTorch's linear layers and convolutions: uniform within 1/sqrt(in_channels), bias too."""
    bound = layer.weight.shape[1] ** -0.5
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.uniform_(layer.bias, -bound, bound)


def kaiming_normal(layer: Pointwise) -> None:
    """Initialize `layer` normally with variance 2/in_channels (arXiv 1502.01852), bias zero: GCNet's attention key."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)


def normal(layer: Pointwise) -> None:
    """Initialize `layer` normally with standard deviation 0.01, bias zero: non-local query, key and value."""
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)


def zero(layer: Pointwise) -> None:
    """Set weight and bias of `layer` to zero: with addition, the new block is the identity."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
