"""Average distances between the positions of a map: measures of query independence (arXiv 1904.11492, sec. 3.2).

`avg_dist = 1 / P^2 sum_i sum_j dist(v_i, v_j)` over all ordered pairs of P positions, i = j among them. Vectors that do
not depend on their position have distance 0.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from gcnet.errors import UserError

EXACT_POSITIONS = 400
SAMPLED_PAIRS = 8192
_ENTRIES = 1 << 22  # float64 numbers that a block of pairs may hold at a time, 32 MiB
_SUM_TOLERANCE = 1e-2  # half-precision rows of some thousand weights are off by as much


@dataclass(frozen=True)
class PairMean:
    """A mean over pairs of positions.

    Attributes:
        mean: the mean.
        standard_error: of the mean; 0 if all pairs were counted.
    """

    mean: Float[Tensor, "*n"]
    standard_error: Float[Tensor, "*n"]


def average_cosine_distance(vectors: Float[Tensor, "*n p c"]) -> Float[Tensor, "*n"]:
    """Return the average of `(1 - cos(v_i, v_j)) / 2` over all ordered pairs, exactly and in float64.

    Takes time linear in positions: the mean of all cosines is the squared norm of the mean unit vector. Two zero
    vectors count as equal (distance 0), a zero vector and any other as orthogonal (distance 1/2).

    Args:
        vectors: of P positions (..., P, C).

    Returns:
        Distances (...,), from 0 to 1.

    Raises:
        UserError: there is no position.

    Reference:
        arXiv 1904.11492, section 3.2.
    """
    _require_positions(vectors)
    values = vectors.detach().double()
    largest = values.abs().amax(-1, keepdim=True)  # first to order one, so that no square over- or underflows
    scaled = values / torch.where(largest > 0, largest, 1)
    norms = scaled.norm(dim=-1, keepdim=True)
    mean_unit = (scaled / torch.where(norms > 0, norms, 1)).mean(-2)
    share_of_zeros = (largest.squeeze(-1) == 0).double().mean(-1)
    cosine = mean_unit.square().sum(-1) + share_of_zeros.square()
    return ((1 - cosine) / 2).clamp(min=0)


def average_jensen_shannon(
    attention: Float[Tensor, "*n p k"], *, exact_up_to: int = EXACT_POSITIONS, pairs: int = SAMPLED_PAIRS
) -> Float[Tensor, "*n"]:
    """Return the mean of `estimate_jensen_shannon`.

    Args:
        attention: rows of weights (..., P, K), each a distribution.
        exact_up_to: number of positions up to which all pairs are counted.
        pairs: number of sampled pairs for each map above, at least 2.

    Returns:
        Divergences (...,) in nats, from 0 to log 2.
    """
    return estimate_jensen_shannon(attention, exact_up_to=exact_up_to, pairs=pairs).mean


def estimate_jensen_shannon(
    attention: Float[Tensor, "*n p k"], *, exact_up_to: int = EXACT_POSITIONS, pairs: int = SAMPLED_PAIRS
) -> PairMean:
    """Return the average Jensen-Shannon divergence of the rows over all ordered pairs, in float64.

    `JSD(v, w) = 1/2 sum_k [v_k log(2 v_k / (v_k + w_k)) + w_k log(2 w_k / (v_k + w_k))]`, with `0 log 0 = 0`. Up to
    `exact_up_to` positions every pair is counted, a block of them at a time. Above, the mean is estimated without bias
    from `pairs` pairs i != j, drawn with the same seed in each call; pairs with i = j are 0.

    Args:
        attention: rows of weights (..., P, K): row i holds the weights of query position i for K keys, a distribution.
        exact_up_to: number of positions up to which all pairs are counted.
        pairs: number of sampled pairs for each map above, at least 2.

    Returns:
        Means (...,) in nats, from 0 to log 2, with their standard errors.

    Raises:
        UserError: there is no position, or a row is no distribution.
    """
    _require_positions(attention)
    if not is_distribution(attention):
        raise UserError(
            "the Jensen-Shannon divergence needs distributions: the weights of each query must be at least 0 and sum "
            f"to 1; found weights from {attention.min():.3g} and sums up to {attention.sum(-1).max():.3g}"
        )
    if pairs < 2:
        raise UserError(f"`pairs` must be at least 2 for a standard error; found {pairs}")
    measure = _mean_of_all if attention.shape[-2] <= max(exact_up_to, 1) else partial(_mean_of_some, pairs=pairs)
    maps = attention.detach().double().reshape(-1, *attention.shape[-2:])  # (number of maps, P, K)
    found = torch.tensor([measure(rows) for rows in maps], dtype=torch.float64).view(*attention.shape[:-2], 2)
    return PairMean(found[..., 0], found[..., 1])


def is_distribution(attention: Float[Tensor, "*n k"]) -> bool:
    """Whether every row of `attention` (..., K) is non-negative and sums to 1, within half precision."""
    sums = attention.detach().double().sum(-1)
    return bool((attention >= 0).all()) and bool(((sums - 1).abs() <= _SUM_TOLERANCE).all())


def _mean_of_all(rows: Float[Tensor, "p k"]) -> tuple[float, float]:
    """JSD(v, w) is `sum_k (f(v_k) + f(w_k)) / 2 - f((v_k + w_k) / 2)`, with f(x) = x log x; symmetric, 0 for v = w."""
    positions = len(rows)
    own = torch.xlogy(rows, rows).sum(-1)
    step = max(1, _ENTRIES // rows.numel())
    total = 0.0
    for first in range(0, positions, step):
        block, others = rows[first : first + step], rows[first:]
        divergence = (own[first : first + step, None] + own[first:]) / 2 - _mixed(block[:, None], others)
        total += 2 * divergence.triu(1).sum().item()
    return max(total, 0.0) / positions**2, 0.0


def _mean_of_some(rows: Float[Tensor, "p k"], pairs: int) -> tuple[float, float]:
    positions, keys = rows.shape
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(positions, (pairs,), generator=generator).to(rows.device)
    second = (first + torch.randint(1, positions, (pairs,), generator=generator).to(rows.device)) % positions
    own = torch.xlogy(rows, rows).sum(-1)
    step = max(1, _ENTRIES // keys)
    mixed = [_mixed(rows[one], rows[other]) for one, other in zip(first.split(step), second.split(step), strict=True)]
    divergence = (own[first] + own[second]) / 2 - torch.cat(mixed)
    share = (positions - 1) / positions  # fraction of ordered pairs with i != j
    return share * divergence.mean().item(), share * divergence.std().item() / pairs**0.5


def _mixed(one: Float[Tensor, "*pairs k"], other: Float[Tensor, "*others k"]) -> Float[Tensor, "*both"]:
    mixture = (one + other) / 2
    return torch.xlogy(mixture, mixture).sum(-1)


def _require_positions(vectors: Tensor) -> None:
    if vectors.shape[-2] < 1:
        raise UserError(f"an average over pairs needs at least one position, found {tuple(vectors.shape)}")
