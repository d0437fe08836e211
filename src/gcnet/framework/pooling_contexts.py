"""Pooling contexts: channel statistics, frequencies (FcaNet) and neighborhoods of the map (Gather-Excite)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.framework.narrow_contexts import NarrowContext
from gcnet.framework.overriding import Overridable


class NormPool(nn.Module):
    """`c = sqrt(sum_j x_j^2 + eps)`, the l2 norm over positions, in at least float32 since float16 would overflow.

    Args:
        eps: added to the sum of squares.
    """

    def __init__(self, *, eps: float = 0.0) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *one"]:
        wide = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=tuple(range(2, x.dim())), keepdim=True, dtype=wide)
        return (norm.square() + self.eps).sqrt() if self.eps else norm

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


class StylePool(nn.Module):
    """`c = [m; s]`: mean and standard deviation of every channel over positions (SRM, arXiv 1903.10829).

    As in the authors' code, the variance is the unbiased one; the paper divides by the number of positions. The
    deviation of a single position is zero.
    """

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c2 *one"]:
        positions = tuple(range(2, x.dim()))
        if x.shape[0] == 0:  # PyTorch warns of the deviation of an empty batch.
            return x.mean(dim=positions, keepdim=True).repeat(1, 2, *[1] * len(positions))
        correction = 1 if math.prod(x.shape[2:]) > 1 else 0
        deviation, mean = torch.std_mean(x, dim=positions, correction=correction, keepdim=True)
        return torch.cat([mean, deviation], dim=1)


# Frequencies along height and width on a grid of 7 x 7, the best on ImageNet first (the authors' selection "top").
TOP_FREQUENCIES = (
    *((0, 0), (0, 1), (6, 0), (0, 5), (0, 2), (1, 0), (1, 2), (4, 0), (5, 0), (1, 6), (3, 0), (0, 4), (0, 6), (0, 3)),
    *((3, 5), (2, 2), (4, 6), (6, 3), (3, 3), (5, 3), (5, 5), (2, 1), (6, 1), (5, 2), (5, 4), (3, 2), (3, 1), (4, 1)),
    *((2, 3), (2, 0), (6, 5), (1, 3)),
)


class FrequencyPool(Overridable, nn.Module):
    """`c = sum_hw x_hw cos(pi u (h + 1/2) / G) cos(pi v (w + 1/2) / G)`, (u, v) per group of channels (FcaNet).

    arXiv 2012.11879, multi-spectral channel attention, with the factors of an orthonormal basis as in the authors'
    code. The map is first averaged to G x G positions. With one spatial axis only v counts; with three, the map is
    first averaged over the first of them.

    Args:
        frequencies: number of frequencies, from the start of `TOP_FREQUENCIES`, one for each group of neighboring
            channels.
        grid: G, a multiple of 7; frequencies scale with it, as in the authors' code.
        dims: number of spatial axes.
    """

    equivalents = ("narrow",)
    basis: Tensor

    def __init__(self, frequencies: int, *, grid: int, dims: int) -> None:
        super().__init__()
        self.grid = grid
        pairs = [pair[-dims:] for pair in TOP_FREQUENCIES[:frequencies]]
        waves = [[_wave(frequency * (grid // 7), grid) for frequency in pair] for pair in pairs]
        basis = torch.stack([wave[0] if dims == 1 else torch.outer(*wave).flatten() for wave in waves])
        self.register_buffer("basis", basis.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *one"]:
        groups = self.cells(x).unflatten(1, (self.basis.shape[0], -1))
        context = torch.einsum("nfcg,fg->nfc", groups, self.basis)
        return context.reshape(*x.shape[:2], *[1] * (x.dim() - 2))

    def cells(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c g"]:
        """Return the averages of a map over the cells of the grid.

        Args:
            x: the map.
        """
        return _averaged(x.mean(dim=2) if x.dim() == 5 else x, self.grid).flatten(2)

    def narrow(self, weight: Float[Tensor, "c k"], bias: Float[Tensor, " c"]) -> NarrowContext:
        """Return the context of `y = weight h + bias` as a function of `h`.

        Args:
            weight: of the convolution.
            bias: of the convolution.
        """
        groups = weight.unflatten(0, (self.basis.shape[0], -1))
        of_bias = bias.unflatten(0, (self.basis.shape[0], -1)) * self.basis.to(bias.dtype).sum(1, keepdim=True)
        return NarrowContext(NarrowFrequencies(self), groups, of_bias.flatten())

    def extra_repr(self) -> str:
        return f"frequencies={self.basis.shape[0]}, grid={self.grid}"


class NarrowFrequencies(nn.Module):
    """`p_f = sum_g basis_fg cells(h)_g`: the projections of all channels of `h` on every cosine.

    Args:
        frequencies: the context of `y`.
    """

    def __init__(self, frequencies: FrequencyPool) -> None:
        super().__init__()
        self.frequencies = frequencies

    def forward(self, h: Float[Tensor, "n k *s"]) -> Float[Tensor, "n fk *one"]:
        pooled = torch.matmul(self.frequencies.basis.to(h.dtype), self.frequencies.cells(h).transpose(1, 2)).flatten(1)
        return pooled.view(*pooled.shape, *[1] * (h.dim() - 2))


def _averaged(x: Float[Tensor, "n c *s"], grid: int) -> Float[Tensor, "n c *g"]:
    """Adaptive average pooling to `grid` positions along each of one or two axes; for ONNX as matrix products.

    ONNX has no adaptive pooling: its exporters write one for the size that they see, or refuse.
    """
    if not torch.onnx.is_in_onnx_export():
        return (F.adaptive_avg_pool1d if x.dim() == 3 else F.adaptive_avg_pool2d)(x, grid)
    x = torch.matmul(x, _averaging(x.shape[-1], grid, x).t())
    return x if x.dim() == 3 else torch.matmul(_averaging(x.shape[-2], grid, x), x)


def _averaging(size: int, grid: int, like: Tensor) -> Float[Tensor, "g s"]:
    """The matrix of adaptive average pooling along one axis; cell i averages from i s / g to (i + 1) s / g."""
    cells = torch.arange(grid, device=like.device).unsqueeze(1)
    positions = torch.arange(size, device=like.device).unsqueeze(0)
    start, end = cells * size // grid, ((cells + 1) * size + grid - 1) // grid
    return ((positions >= start) & (positions < end)).to(like.dtype) / (end - start).to(like.dtype)


def _wave(frequency: int, size: int) -> Tensor:
    """The discrete cosine of unit length."""
    positions = torch.arange(size, dtype=torch.float64)
    return torch.cos(math.pi * frequency * (positions + 0.5) / size) * ((1 if frequency == 0 else 2) / size) ** 0.5


class LocalAverage(nn.Module):
    """Average of the 2e - 1 positions around every e-th position along each axis, without padding in the mean.

    Args:
        extent: e.
    """

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
    """Depthwise convolution with kernel size 3, stride 2, zero padding and no bias.

    Not a convolution for `isinstance`, like `Pointwise`. Initialized as PyTorch does: uniform within 1/sqrt(3^dims).

    Args:
        channels: C.
        dims: number of spatial axes.
    """

    def __init__(self, channels: int, *, dims: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, *[3] * dims))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the weight again."""
        bound = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *t"]:
        convolution = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.dim()]
        return convolution(x, self.weight, stride=2, padding=1, groups=x.shape[1])

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}"


class GatherPool(nn.Module):
    """`c = spread(excite(gather(x)))`: a context for every neighborhood, at the size of the map.

    Spreading is nearest-neighbor interpolation. It does not mix channels, so exciting before it equals exciting after
    it, on fewer positions.

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
