"""Contexts without attention beyond the average: norms, styles, frequencies, and averages of parts of the map."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class NormPool(nn.Module):
    """`c = sqrt(sum_j x_j^2 + eps)`, the l2 norm over positions, in at least float32: in float16 it would overflow."""

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
    """`c = [m; s]`: every channel's mean and standard deviation over positions (SRM, arXiv 1903.10829).

    As in the authors' code the sum of squares is divided by one less than the number of positions, in the paper by that
    number. One position alone has no deviation: zero.
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


class FrequencyPool(nn.Module):
    """`c = sum_hw x_hw cos(pi u (h + 1/2) / G) cos(pi v (w + 1/2) / G)`, (u, v) by group of channels (FcaNet).

    arXiv 2012.11879, multi-spectral channel attention; with the factors that make the basis orthonormal, as in the
    authors' code. The map is first averaged to G x G positions. With one axis only v counts; with three, the map is
    first averaged over the first of them.

    Args:
        frequencies: the first so many of `TOP_FREQUENCIES`, one for each group of neighbouring channels.
        grid: G, a multiple of 7; frequencies grow with it, as in the authors' code.
        dims: spatial axes.
    """

    basis: Tensor

    def __init__(self, frequencies: int, *, grid: int, dims: int) -> None:
        super().__init__()
        self.grid = grid
        pairs = [pair[-dims:] for pair in TOP_FREQUENCIES[:frequencies]]
        waves = [[_wave(frequency * (grid // 7), grid) for frequency in pair] for pair in pairs]
        basis = torch.stack([wave[0] if dims == 1 else torch.outer(*wave).flatten() for wave in waves])
        self.register_buffer("basis", basis.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *one"]:
        plane = x.mean(dim=2) if x.dim() == 5 else x
        groups = _averaged(plane, self.grid).flatten(2).unflatten(1, (self.basis.shape[0], -1))
        context = torch.einsum("nfcg,fg->nfc", groups, self.basis)
        return context.reshape(*x.shape[:2], *[1] * (x.dim() - 2))

    def extra_repr(self) -> str:
        return f"frequencies={self.basis.shape[0]}, grid={self.grid}"


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
