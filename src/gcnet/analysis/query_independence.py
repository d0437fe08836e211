"""Table 1 of the paper for any network: distances between positions of inputs, outputs and attention, by layer."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.analysis.attention import Attention
from gcnet.analysis.capture import Gate, capture
from gcnet.analysis.distances import average_cosine_distance, estimate_jensen_shannon, is_distribution
from gcnet.analysis.readers import Adapter

_RESAMPLES = 2000


@dataclass(frozen=True)
class Distances:
    """Average distances between the positions of each of N images in one call; None where there is nothing to compare.

    Attributes:
        input: of x_i, what the module is given (cosine).
        added: of z_i - x_i, what it adds (cosine).
        attention: of the rows of its weights (cosine); of several heads or windows the mean.
        divergence: of the rows of its weights (Jensen-Shannon, nats), where they are distributions.
        divergence_error: standard error of each divergence, 0 where all pairs were counted.
        is_shared: whether all positions have one map by construction; the distances of its rows are then 0.
        adds_nothing: whether what it adds is zero everywhere, as in a new block.
        channels: length of x_i; None where that is not known.
        grid: spatial size of the positions.
    """

    input: Float[Tensor, " n"] | None
    added: Float[Tensor, " n"] | None
    attention: Float[Tensor, " n"]
    divergence: Float[Tensor, " n"] | None
    divergence_error: Float[Tensor, " n"] | None
    is_shared: bool
    adds_nothing: bool
    channels: int | None
    grid: tuple[int, ...]


@dataclass(frozen=True)
class Interval:
    """A mean over images with its 95 % bootstrap interval over images.

    Attributes:
        mean: the mean.
        low: lower end; None for a single image.
        high: upper end; None for a single image.
    """

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Layer:
    """Average distances of a module over all images, in the terms of `Distances`.

    Attributes:
        name: of the module.
        kind: type of the module.
        grid: spatial size of the positions.
        channels: length of the input vectors; None if it is not known.
        images: number of images.
        is_shared: whether all positions have one map by construction.
        adds_nothing: whether the module adds zero everywhere, like a new block.
        input: cosine distance of the inputs, or None.
        added: cosine distance of what the module adds, or None.
        attention: cosine distance of the rows of its weights.
        divergence: Jensen-Shannon divergence of the rows in nats, or None.
        divergence_error: standard error of the divergence; 0 if all pairs were counted.
    """

    name: str
    kind: str
    grid: tuple[int, ...]
    channels: int | None
    images: int
    is_shared: bool
    adds_nothing: bool
    input: Interval | None
    added: Interval | None
    attention: Interval
    divergence: Interval | None
    divergence_error: float


def measure_layers(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    adapters: Mapping[type[nn.Module], Adapter] | None = None,
    on_gates: Callable[[list[Gate]], None] | None = None,
    on_unread: Callable[[Iterable[str]], None] | None = None,
    part: Callable[[Attention], Attention] = lambda attention: attention,
) -> list[Layer]:
    """Return the average distances of every attending module of a network, in its mode and without gradients.

    Args:
        model: the network.
        batches: images (N, 3, H, W), on the device of the network; the grid of a layer is that of the first image.
        adapters: as for `gcnet.analysis.capture.capture`.
        on_gates: called after each batch with its gates.
        on_unread: called at the end with the names of attention modules that cannot be read.
        part: function that returns the part of a call's attention to measure, such as `Padding.without_queries`.

    Returns:
        The layers, in the order of their first calls.

    Reference:
        arXiv 1904.11492, table 1.
    """
    calls: dict[str, list[Distances]] = {}
    with torch.no_grad(), capture(model, adapters=adapters, keep=lambda one: measure_distances(part(one))) as found:
        for images in batches:
            model(images)
            for name, distances in found.attention:
                calls.setdefault(name, []).append(distances)
            if on_gates is not None:
                on_gates(found.gates)
            found.attention.clear()
            found.gates.clear()
        if on_unread is not None:
            on_unread(found.unread)
    return [_layer(name, type(model.get_submodule(name)).__name__, of_name) for name, of_name in calls.items()]


def measure_distances(attention: Attention) -> Distances:
    """Return the average distances of the call `attention`, computed image by image."""
    rows, divergence, error = _row_distances(attention)
    added = attention.added
    return Distances(
        input=_cosine(attention.input),
        added=_cosine(added),
        attention=rows,
        divergence=divergence,
        divergence_error=error,
        is_shared=attention.is_shared,
        adds_nothing=added is not None and not bool(added.any()),
        channels=None if attention.input is None else attention.input.shape[-1],
        grid=attention.grid,
    )


def _cosine(vectors: Tensor | None) -> Tensor | None:
    return None if vectors is None else average_cosine_distance(vectors).cpu()


def _row_distances(attention: Attention) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Cosine distance, divergence and its error of each image: means over heads, and over windows by their queries."""
    images = len(attention.weights)
    cosine, divergence, variance = torch.zeros(3, images, dtype=torch.float64).unbind()
    if attention.is_shared:
        return (cosine, divergence, variance) if is_distribution(attention.weights) else (cosine, None, None)
    comparable = all(is_distribution(rows) for rows in attention.groups())
    for rows in attention.groups():  # (N, heads, P', K)
        share = rows.shape[2] / attention.positions
        cosine += share * average_cosine_distance(rows).mean(1).cpu()
        if comparable:
            estimate = estimate_jensen_shannon(rows)
            divergence += share * estimate.mean.mean(1)
            variance += share**2 * estimate.standard_error.square().sum(1) / rows.shape[1] ** 2
    return (cosine, divergence, variance.sqrt()) if comparable else (cosine, None, None)


def _layer(name: str, kind: str, calls: list[Distances]) -> Layer:
    def over_images(values: Iterable[Tensor | None]) -> Interval | None:
        known = [value for value in values if value is not None]
        return bootstrap_interval(torch.cat(known)) if known else None

    attention = torch.cat([call.attention for call in calls])
    errors = [call.divergence_error for call in calls if call.divergence_error is not None]
    return Layer(
        name=name,
        kind=kind,
        grid=calls[0].grid,
        channels=calls[0].channels,
        images=len(attention),
        is_shared=calls[0].is_shared,
        adds_nothing=all(call.adds_nothing for call in calls),
        input=over_images(call.input for call in calls),
        added=over_images(call.added for call in calls),
        attention=bootstrap_interval(attention),
        divergence=over_images(call.divergence for call in calls),
        divergence_error=torch.cat(errors).square().sum().sqrt().item() / len(attention) if errors else 0.0,
    )


def bootstrap_interval(values: Float[Tensor, " n"], *, seed: int = 0) -> Interval:
    """Return a mean with the 2.5 % and 97.5 % points of the means of 2,000 bootstrap samples.

    Args:
        values: of n images, shape (n,).
        seed: of the samples.

    Returns:
        The interval; without ends for a single value.
    """
    mean = values.mean().item()
    if len(values) < 2:
        return Interval(mean, None, None)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(values), (_RESAMPLES, len(values)), generator=generator)
    low, high = values[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return Interval(mean, low, high)
