"""Attention weights of one call of a module, laid out over the positions of its map."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

_MOST_EXTRA = 8  # tokens: of a class, of distillation, registers


@dataclass(frozen=True)
class Attention:
    """The weights of one call, for P query positions and K keys, and what went in and was added.

    Attributes:
        weights: (N, heads, K) where all queries share one map, (N, heads, P', K') where each has its own, or of windows
            (N, W, heads, P', K'). P' and K' count `extra` tokens that are no positions (of a class, registers) first.
        grid: spatial size of the query positions; P is its product.
        key_grid: spatial size of the keys; K is its product.
        extra: tokens before the positions.
        windows: of each window, the positions in it, -1 for padding: the attention of a window stays in it. None where
            every query sees all keys.
        input: input of the module, a vector per position; None if it is no map of the same grid.
        added: output minus input of the module, or its output if the network adds the input.
    """

    weights: Float[Tensor, "n heads *rest"]
    grid: tuple[int, ...]
    key_grid: tuple[int, ...]
    extra: int = 0
    windows: Int[Tensor, "w a"] | None = None
    input: Float[Tensor, "n p c"] | None = None
    added: Float[Tensor, "n p c"] | None = None

    @property
    def is_shared(self) -> bool:
        """Whether all queries have the same map by construction."""
        return self.weights.dim() == 3

    @property
    def positions(self) -> int:
        """Number of query positions."""
        return math.prod(self.grid)

    def map_of(self, position: int) -> Float[Tensor, "n *key_grid"]:
        """Return the map of one query position, mean over heads, without the weights of extra tokens.

        Args:
            position: index of the query, row by row, from 0.

        Returns:
            Weights (N, *key_grid).
        """
        if self.is_shared:
            return self._on_grid(self.weights.mean(1)[:, self.extra :])
        if self.windows is None:
            return self._on_grid(self.weights[:, :, self.extra + position, self.extra :].mean(1))
        window, place = (self.windows == position).nonzero()[0].tolist()
        return self._spread(self.weights[:, window, :, place].mean(1), self.windows[window])

    def mean_map(self) -> Float[Tensor, "n *key_grid"]:
        """Return the mean of the maps of all query positions (N, *key_grid)."""
        if self.is_shared:
            return self.map_of(0)
        if self.windows is None:
            return self._on_grid(self.weights[:, :, self.extra :, self.extra :].mean((1, 2)))
        rows = [weights.mean(1).sum(1) for weights in self.groups()]
        maps = [self._spread(row, positions) for row, positions in zip(rows, self.windows, strict=True)]
        return torch.stack(maps).sum(0) / self.positions

    def groups(self) -> Iterator[Float[Tensor, "n heads p k"]]:
        """Yield the rows of queries that see the same keys, extra tokens among the keys.

        Yields:
            Weights (N, heads, P, K): one tensor for all queries, or one for each window.
        """
        if self.is_shared:
            yield self.weights[:, :, None].expand(-1, -1, self.positions, -1)
        elif self.windows is None:
            yield self.weights[:, :, self.extra :]
        else:
            for window, positions in enumerate(self.windows):
                yield self.weights[:, window][:, :, positions >= 0]

    def _spread(self, row: Float[Tensor, "n k"], positions: Int[Tensor, " k"]) -> Tensor:
        """The map of weights of some positions, zero elsewhere."""
        real = positions >= 0
        spread = row.new_zeros(len(row), math.prod(self.key_grid))
        spread[:, positions[real]] = row[:, real]
        return self._on_grid(spread)

    def _on_grid(self, row: Float[Tensor, "n k"]) -> Tensor:
        return row.reshape(len(row), *self.key_grid)


def attention_over_map(
    weights: Float[Tensor, "n *rest"], x: Float[Tensor, "n c *s"], added: Float[Tensor, "n c *s"] | None
) -> Attention:
    """Return the attention of a module on maps.

    Args:
        weights: (N, *S) or (N, heads, *S) for all queries; (N, P, K) or (N, heads, P, K) with a row for each query.
        x: input of the module (N, C, *S).
        added: output minus input of the module (N, C, *S), or None.

    Returns:
        The attention, with vectors of `x` and `added` for each position.
    """
    grid = tuple(x.shape[2:])
    positions = math.prod(grid)
    ends_as_grid = tuple(weights.shape[-len(grid) :]) == grid and weights.dim() in (len(grid) + 1, len(grid) + 2)
    is_line_of_rows = weights.dim() == 3 and len(grid) == 1 and weights.shape[1] == positions
    shared = ends_as_grid and not is_line_of_rows
    axes = len(grid) if shared else 2
    if weights.dim() == axes + 1:
        weights = weights.unsqueeze(1)
    if shared:
        return Attention(weights.flatten(2), grid, grid, input=_vectors(x), added=_vectors(added))
    keys = weights.shape[-1]
    key_grid = grid if keys == positions else _halved(grid, keys)
    return Attention(weights, grid, key_grid, input=_vectors(x), added=_vectors(added))


def attention_over_tokens(
    weights: Float[Tensor, "n heads p k"],
    x: Float[Tensor, "n p c"],
    added: Float[Tensor, "n p c"] | None,
    *,
    extra: int | None = None,
    image: tuple[int, int] = (1, 1),
) -> Attention:
    """Return the attention of a module on tokens, the last of which are the positions of an image.

    Args:
        weights: (N, heads, P, K).
        x: input of the module (N, P, C).
        added: output of the module (N, P, C), or None.
        extra: number of tokens before the positions; None or a wrong number is replaced by one that leaves a grid.
        image: height and width of the image in pixels, or their ratio.

    Returns:
        The attention over the grid of the positions.
    """
    extra, grid = token_grid(weights.shape[-2], extra, image)
    keys = weights.shape[-1]
    key_grid = grid if keys == weights.shape[-2] else (keys - extra,)
    values = [None if one is None else one[:, extra:].clone() for one in (x, added)]
    return Attention(weights, grid, key_grid, extra, input=values[0], added=values[1])


def token_grid(tokens: int, extra: int | None, image: tuple[int, int]) -> tuple[int, tuple[int, ...]]:
    """Return the number of extra tokens, and the grid of the others in the aspect ratio of the image.

    Args:
        tokens: number of tokens.
        extra: number of tokens that are no positions, if known.
        image: height and width of the image in pixels, or their ratio.

    Returns:
        Number of extra tokens and the grid; (tokens,) as the grid if none fits.
    """
    ratio = image[0] / image[1]
    # A declared stride may leave a cut edge; a guess has to fit.
    candidates = [*([] if extra is None else [(extra, 0.25)]), *((count, 0.05) for count in range(_MOST_EXTRA + 1))]
    for count, tolerance in candidates:
        rest = tokens - count
        height = max(1, round(math.sqrt(max(rest, 1) * ratio)))
        if rest > 0 and rest % height == 0 and abs(math.log(height * height / rest / ratio)) < tolerance:
            return count, (height, rest // height)
    return 0, (tokens,)


def _halved(grid: tuple[int, ...], keys: int) -> tuple[int, ...]:
    """The grid of keys that were sub-sampled by two, in 3-D along all but the first axis; else a line."""
    halves = tuple(side if len(grid) == 3 and axis == 0 else max(side // 2, 1) for axis, side in enumerate(grid))
    return halves if math.prod(halves) == keys else (keys,)


def _vectors(x: Tensor | None) -> Tensor | None:
    """(N, C, *S) -> (N, P, C), as a copy: later modules may change the map in place."""
    return None if x is None else x.flatten(2).transpose(1, 2).clone()


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

        Weights are multiplied by `K_all / K_inside`. Keys in a line have no positions, and all are kept.
        """
        if len(attention.key_grid) != 2:
            return attention
        grid, inside = self._inside(attention.key_grid, attention.weights.device)
        scale = attention.weights.shape[-1] / len(inside)
        return replace(attention, key_grid=grid, weights=attention.weights[..., inside] * scale)

    def _inside(self, grid: tuple[int, ...], device: torch.device) -> tuple[tuple[int, int], Int[Tensor, " p"]]:
        """Cells of a grid over the padded image with at least one pixel: rows and columns, and their counts."""
        rows, columns = (
            -(-side * pixels // whole) for side, pixels, whole in zip(grid, self.size, self.padded, strict=True)
        )
        numbers = torch.arange(grid[0] * grid[1], device=device).view(grid)
        return (rows, columns), numbers[:rows, :columns].flatten()
