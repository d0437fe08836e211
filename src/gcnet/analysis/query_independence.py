"""Query dependence of layers: distances between positions (Table 1 of the paper), and the savings of a GC block."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.analysis.attention import Attention
from gcnet.analysis.capture import Gate, capture
from gcnet.analysis.cost import count_flops, count_parameters
from gcnet.analysis.distances import average_cosine_distance, estimate_jensen_shannon, is_distribution
from gcnet.analysis.readers import Adapter, is_block_on_maps
from gcnet.blocks import build_block

_RESAMPLES = 2000


@dataclass(frozen=True)
class Distances:
    """Average distances between the positions of each of N images in one call; None where there is nothing to compare.

    Attributes:
        input: of the inputs x_i (cosine).
        added: of the outputs z_i - x_i (cosine).
        attention: of the rows of its weights (cosine); of several heads or windows the mean.
        divergence: of the rows of its weights (Jensen-Shannon, nats), where they are distributions.
        divergence_error: standard error of each divergence, 0 where all pairs were counted.
        is_shared: whether all positions have one map by construction; the distances of its rows are then 0.
        adds_nothing: whether its output is zero everywhere, as in a new block.
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
        added: cosine distance of the outputs, or None.
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
        batches: as for `measure_batches`; the first image determines the grid of a layer.
        adapters: as for `measure_batches`.
        on_gates: as for `measure_batches`.
        on_unread: as for `measure_batches`.
        part: as for `measure_batches`.

    Returns:
        The layers, in the order of their first calls.

    Reference:
        arXiv 1904.11492, table 1.
    """
    return combine_batches(
        model, measure_batches(model, batches, adapters=adapters, on_gates=on_gates, on_unread=on_unread, part=part)
    )


def measure_batches(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    adapters: Mapping[type[nn.Module], Adapter] | None = None,
    on_gates: Callable[[list[Gate]], None] | None = None,
    on_unread: Callable[[Iterable[str]], None] | None = None,
    part: Callable[[Attention], Attention] = lambda attention: attention,
) -> list[list[tuple[str, Distances]]]:
    """Return the average distances of every call of an attending module, for `combine_batches`.

    Args:
        model: the network; it runs in its mode and without gradients.
        batches: images (N, 3, H, W), on the device of the network.
        adapters: as for `gcnet.analysis.capture.capture`.
        on_gates: called after each batch with its gates.
        on_unread: called at the end with the names of attention modules that cannot be read.
        part: function that returns the part of a call's attention to measure, such as `Padding.without_queries`.

    Returns:
        For each batch, the name of the module of each call and its distances, in order.
    """
    measured = []
    with torch.no_grad(), capture(model, adapters=adapters, keep=lambda one: measure_distances(part(one))) as found:
        for images in batches:
            model(images)
            measured.append(list(found.attention))
            if on_gates is not None:
                on_gates(found.gates)
            found.attention.clear()
            found.gates.clear()
        if on_unread is not None:
            on_unread(found.unread)
    return measured


def combine_batches(model: nn.Module, measured: Iterable[Sequence[tuple[str, Distances]]]) -> list[Layer]:
    """Return the average distances of every module over all batches.

    Args:
        model: the network.
        measured: results of `measure_batches`, also of several processes, in the order of the images.

    Returns:
        The layers, in the order of their first calls.
    """
    calls: dict[str, list[Distances]] = {}
    for batch in measured:
        for name, distances in batch:
            calls.setdefault(name, []).append(distances)
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


INDEPENDENT = 0.1
"""Maximum average cosine distance of query-independent maps and outputs. In the paper's
Table 1 the outputs of all eight non-local networks are below it, and the inputs are at 0.34 to 0.41."""
_RATIO, _LEAST_WIDTH = 16, 4
_LISTED = 4


@dataclass(frozen=True)
class Saving:
    """Costs of a block, and of a GC block in its place.

    Attributes:
        parameters: of the block.
        flops: of the block, for one image (multiply-add = 2).
        gc_parameters: of the GC block.
        gc_flops: of the GC block.
    """

    parameters: int
    flops: int
    gc_parameters: int
    gc_flops: int


def dependence(layer: Layer) -> float:
    """Return the query dependence of a layer.

    Args:
        layer: its distances.

    Returns:
        The larger of two cosine distances, of maps and of outputs: upper bounds of their 95 % intervals.
    """
    parts = (layer.attention, layer.added)
    return max(part.mean if part.high is None else part.high for part in parts if part is not None)


def is_independent(layer: Layer, threshold: float = INDEPENDENT) -> bool:
    """Whether a layer with a map for each query is effectively query-independent.

    Args:
        layer: its distances.
        threshold: maximum cosine distance, 0 to 1.

    Returns:
        False also for layers with one map by construction or with zero output.
    """
    return not layer.is_shared and not layer.adds_nothing and dependence(layer) <= threshold


def gc_instead(module: nn.Module, layer: Layer) -> Saving | None:
    """Return the costs of a GC block (r = 16, at least 4 channels wide) in place of a module.

    Args:
        module: the module.
        layer: its distances.

    Returns:
        The costs; None if the module is no block on maps.
    """
    if not is_block_on_maps(module) or layer.channels is None:
        return None
    with torch.device("meta"):
        ratio = min(_RATIO, max(layer.channels / _LEAST_WIDTH, 1))
        block = build_block("gc", channels=layer.channels, ratio=ratio, dims=len(layer.grid))
    shape = (1, layer.channels, *layer.grid)
    return Saving(
        count_parameters(module), count_flops(module, shape), count_parameters(block), count_flops(block, shape)
    )


def describe_dependence(model: nn.Module, layers: Sequence[Layer]) -> str:
    """Return a summary of the query dependence of a network in a sentence or two.

    Args:
        model: the network.
        layers: from `measure_layers`.

    Returns:
        The text.
    """
    if not layers:
        return "No module of this network attends to positions."
    dependent = [layer for layer in layers if not layer.is_shared]
    shared = len(layers) - len(dependent)
    verb = "has" if shared == 1 else "have"
    sentences = [_describe_measured(model, dependent)] if dependent else []
    if shared:
        sentences.append(f"{_count(shared, 'layer')} {verb} one map for all queries by construction.")
    return " ".join(sentences)


def _describe_measured(model: nn.Module, layers: Sequence[Layer]) -> str:
    independent = [layer for layer in layers if is_independent(layer)]
    new = [layer for layer in layers if layer.adds_nothing]
    verb = "is" if len(independent) == 1 else "are"
    text = f"{len(independent)} of {_count(len(layers), 'layer')} {verb} effectively query-independent"
    text += f" (cosine distance <= {INDEPENDENT:g}): {_names(independent)}." if independent else "."
    if new:
        text += f" {_count(len(new), 'layer')} add{'s' * (len(new) == 1)} nothing yet, like new blocks: {_names(new)}."
    savings = [saving for layer in independent if (saving := gc_instead(model.get_submodule(layer.name), layer))]
    return f"{text} {_describe_savings(savings)}" if savings else text


def _describe_savings(savings: Sequence[Saving]) -> str:
    parameters, gc_parameters = (
        sum(getattr(saving, name) for saving in savings) for name in ("parameters", "gc_parameters")
    )
    flops, gc_flops = (sum(getattr(saving, name) for saving in savings) for name in ("flops", "gc_flops"))
    replaced = "them" if len(savings) > 1 else "it"
    return (
        f"Replacing {replaced} with gc would take {gc_parameters:,} parameters instead of {parameters:,} "
        f"({gc_parameters / parameters - 1:+.0%}) and {gc_flops / 1e6:,.3g} MFLOPs per image instead of "
        f"{flops / 1e6:,.3g} ({gc_flops / flops - 1:+.0%})."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _names(layers: Sequence[Layer]) -> str:
    names = [layer.name or layer.kind for layer in layers]
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
