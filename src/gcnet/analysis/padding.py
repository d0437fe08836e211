"""Attention over a padded image, without the padded positions."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from gcnet.analysis.attention import Attention


@dataclass(frozen=True)
class Padding:
    """An image in the upper left corner of a larger one.

    Its methods take attention over maps with two axes, without extra tokens or windows.

    Attributes:
        size: height and width of the image in pixels.
        padded: height and width of the larger image in pixels.
    """

    size: tuple[int, int]
    padded: tuple[int, int]

    def without_queries(self, attention: Attention) -> Attention:
        """Return `attention` of the queries inside the image; their weights of keys in the padding stay."""
        grid, inside = self._inside(attention.grid, attention.weights.device)
        return replace(
            attention,
            grid=grid,
            weights=attention.weights if attention.is_shared else attention.weights[:, :, inside],
            input=None if attention.input is None else attention.input[:, inside],
            added=None if attention.added is None else attention.added[:, inside],
        )

    def without_keys(self, attention: Attention) -> Attention:
        """Return `attention` over the keys inside the image, scaled so that uniform weights stay uniform.

        Weights are multiplied by `K_all / K_inside`. Keys in a line, which have no places, all stay.
        """
        if len(attention.key_grid) != 2:
            return attention
        grid, inside = self._inside(attention.key_grid, attention.weights.device)
        scale = attention.weights.shape[-1] / len(inside)
        return replace(attention, key_grid=grid, weights=attention.weights[..., inside] * scale)

    def _inside(self, grid: tuple[int, ...], device: torch.device) -> tuple[tuple[int, int], Int[Tensor, " p"]]:
        """Of the cells of a grid over the padded image those that hold a pixel: rows and columns, and their numbers."""
        rows, columns = (
            -(-side * pixels // whole) for side, pixels, whole in zip(grid, self.size, self.padded, strict=True)
        )
        numbers = torch.arange(grid[0] * grid[1], device=device).view(grid)
        return (rows, columns), numbers[:rows, :columns].flatten()
