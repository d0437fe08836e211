"""Gather (GENet, arXiv 1810.12348): a context from around each position, at a smaller size, then spread again."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LocalAverage(nn.Module):
    """The mean of the 2e - 1 positions around every e-th one, along each axis; the outside is left out."""

    def __init__(self, extent: int) -> None:
        super().__init__()
        self.extent = extent

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *t"]:
        kernel, stride, padding = 2 * self.extent - 1, self.extent, self.extent - 1
        if x.dim() == 3:
            return F.avg_pool1d(x, kernel, stride, padding, count_include_pad=False)
        if x.dim() == 4:
            return F.avg_pool2d(x, kernel, stride, padding, count_include_pad=False)
        # Axis by axis it is the same; PyTorch's pooling of three axes refuses maps smaller than the kernel.
        planes = F.avg_pool2d(x.flatten(1, 2), kernel, stride, padding, count_include_pad=False)
        columns = planes.flatten(2).unflatten(1, x.shape[1:3])  # (N, C, T, H' W')
        pooled = F.avg_pool2d(columns, (kernel, 1), (stride, 1), (padding, 0), count_include_pad=False)
        return pooled.unflatten(3, planes.shape[2:])

    def extra_repr(self) -> str:
        return f"extent={self.extent}"


class HalvingFilter(nn.Module):
    """A convolution of each channel alone, of 3 positions along each axis with stride 2 and zeros around, no bias.

    No convolution to `isinstance`, as `Pointwise`. It starts uniform within 1/sqrt(3^dims), PyTorch's start.
    """

    def __init__(self, channels: int, *, dims: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, *[3] * dims))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw a new start."""
        bound = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *t"]:
        convolution = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.dim()]
        return convolution(x, self.weight, stride=2, padding=1, groups=x.shape[1])

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}"


class GatherPool(nn.Module):
    """`c = spread(excite(gather(x)))`: a context of its own for every neighbourhood, at the size of the map.

    Spreading takes the nearest gathered position. It changes nothing between channels, so to excite before it is the
    same as after, on fewer positions.

    Args:
        gather: `(N, C, *S) -> (N, C, *T)`, T smaller.
        excite: `(N, C, *T) -> (N, C, *T)`, or `nn.Identity()`.
    """

    def __init__(self, gather: nn.Module, excite: nn.Module) -> None:
        super().__init__()
        self.gather = gather
        self.excite = excite

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *s"]:
        return F.interpolate(self.excite(self.gather(x)), size=x.shape[2:], mode="nearest")
