"""Transforms without a channel matrix: normalize, weight, convolve or gate the channels of a context.

A context may have a higher precision than the map (see `NormPool`); fusions cast its term to the map's dtype.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.framework.transform import BatchStandardization


def per_channel(parameter: Float[Tensor, " c"], like: Float[Tensor, "n c *t"]) -> Float[Tensor, "c *one"]:
    """Return a view of `parameter` that broadcasts over a map or context, in its dtype.

    Args:
        parameter: one value per channel.
        like: the map or context.
    """
    return parameter.view(-1, *[1] * (like.dim() - 2)).to(like.dtype)


class ChannelFilter(nn.Module):
    """`y_c = sum_d w_d x_(c + d)`: one filter along the channel axis, zero-padded (ECA, arXiv 1910.03151).

    Args:
        kernel_size: odd number of neighboring channels.
        initialize: initializes the weight (kernel_size,) in place; None for PyTorch's uniform within
            1/sqrt(kernel_size).
    """

    def __init__(self, kernel_size: int, *, initialize: Callable[[Tensor], object] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(kernel_size))
        self._initialize = initialize
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the weight again."""
        bound = self.weight.numel() ** -0.5
        nn.init.uniform_(self.weight, -bound, bound) if self._initialize is None else self._initialize(self.weight)

    def forward(self, context: Float[Tensor, "n c *t"]) -> Float[Tensor, "n c *t"]:
        last = context.dim() - 1  # The older ONNX exporter needs axes counted from the front.
        columns = context.movedim(1, last)
        flat = columns.reshape(-1, 1, context.shape[1])
        mixed = F.conv1d(flat, self.weight[None, None], padding=len(self.weight) // 2)
        return mixed.view(columns.shape).movedim(last, 1)

    def extra_repr(self) -> str:
        return f"kernel_size={self.weight.numel()}"


class Standardize(nn.Module):
    """`z = (x - mean) / sqrt(var + eps)` over the channels of each group, position by position, in at least float32.

    Args:
        groups: the channels are cut into this many neighbouring groups.
        eps: added to the variance.
    """

    def __init__(self, groups: int = 1, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = groups
        self.eps = eps

    def forward(self, context: Float[Tensor, "n c *t"]) -> Float[Tensor, "n c *t"]:
        wide = context.to(torch.promote_types(context.dtype, torch.float32)).unflatten(1, (self.groups, -1))
        last = context.dim()  # The older ONNX exporter needs axes counted from the front.
        rows = wide.movedim(2, last)
        return F.layer_norm(rows, rows.shape[last:], eps=self.eps).movedim(last, 2).flatten(1, 2).to(context.dtype)

    def extra_repr(self) -> str:
        return f"groups={self.groups}, eps={self.eps}"


class ChannelAffine(nn.Module):
    """`y_c = w_c x_c + b_c`, with w and b initialized to constants.

    Not a norm for `isinstance`, so a base model that initializes all its norms does not change it.

    Args:
        channels: C.
        weight: initial w.
        bias: initial b.
    """

    def __init__(self, channels: int, *, weight: float, bias: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self._start = weight, bias
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set w and b to their initial values."""
        nn.init.constant_(self.weight, self._start[0])
        nn.init.constant_(self.bias, self._start[1])

    def forward(self, context: Float[Tensor, "n c *t"]) -> Float[Tensor, "n c *t"]:
        return torch.addcmul(per_channel(self.bias, context), context, per_channel(self.weight, context))

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}"


class Gaussian(nn.Module):
    """`exp(-z^2 / (2 c^2))`, element by element: contexts far from the mean are damped (Ruan et al., CVPR 2021).

    Args:
        learned: c is 1 + 3 sigmoid(theta), between 1 and 4, with theta learned and initially zero; else c is 2.
    """

    theta: nn.Parameter | None

    def __init__(self, *, learned: bool) -> None:
        super().__init__()
        self.register_parameter("theta", nn.Parameter(torch.zeros(())) if learned else None)

    def reset_parameters(self) -> None:
        """Set theta to 0."""
        if self.theta is not None:
            nn.init.zeros_(self.theta)

    def forward(self, context: Float[Tensor, "n c *t"]) -> Float[Tensor, "n c *t"]:
        deviation = 2.0 if self.theta is None else 1 + 3 * self.theta.sigmoid()
        return torch.exp((context / deviation).square() / -2)


class ResponseNorm(nn.Module):
    """`y_c = w_c g_c / (mean_d g_d + eps)`: global response normalization (GRN, arXiv 2301.00808, eq. 2).

    The paper divides by the sum over channels, its code by the mean. w is initially zero.

    Args:
        channels: C.
        eps: added to the mean.
    """

    def __init__(self, channels: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.eps = eps
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set w to 0."""
        nn.init.zeros_(self.weight)

    def forward(self, context: Float[Tensor, "n c *t"]) -> Float[Tensor, "n c *t"]:
        return per_channel(self.weight, context) * (context / (context.mean(dim=1, keepdim=True) + self.eps))

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


class GatedNorm(nn.Module):
    """`tanh(gamma n + beta)`, `n_c = e_c / sqrt(mean_d e_d^2 + eps)`, `e = alpha x` (gated GCT, arXiv 1909.11519).

    alpha is initially one, gamma and beta are zero.

    Args:
        channels: C.
        eps: added to the mean square.
    """

    def __init__(self, channels: int, *, eps: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels))
        self.gamma = nn.Parameter(torch.empty(channels))
        self.beta = nn.Parameter(torch.empty(channels))
        self.eps = eps
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set alpha to 1, gamma and beta to 0."""
        nn.init.ones_(self.alpha)
        nn.init.zeros_(self.gamma)
        nn.init.zeros_(self.beta)

    def forward(self, context: Float[Tensor, "n c *t"]) -> Float[Tensor, "n c *t"]:
        embedding = context * per_channel(self.alpha, context)
        normalized = embedding * torch.rsqrt(embedding.square().mean(dim=1, keepdim=True) + self.eps)
        return torch.tanh(per_channel(self.gamma, context) * normalized + per_channel(self.beta, context))

    def extra_repr(self) -> str:
        return f"{self.alpha.numel()}, eps={self.eps}"


class StyleIntegration(nn.Module):
    """`BN(w1 m + w2 s)` per channel: the channel-wise fully connected layer of SRM (arXiv 1903.10829).

    Args:
        channels: C. The context holds the means m of C channels, then their standard deviations s. `weight` is (2, C),
            initially zero; gamma of the batch norm is initially one.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, channels))
        self.norm = BatchStandardization(channels, gamma=1.0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set w1 and w2 to 0."""
        nn.init.zeros_(self.weight)

    def forward(self, context: Float[Tensor, "n c2 *t"]) -> Float[Tensor, "n c *t"]:
        mean, deviation = context.chunk(2, dim=1)
        style = mean * per_channel(self.weight[0], mean) + deviation * per_channel(self.weight[1], mean)
        return self.norm(style).to(context.dtype)
