"""Query-independent layers, and what a GC block in their place would save."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from gcnet.analysis.cost import count_flops, count_parameters
from gcnet.analysis.query_independence import Layer
from gcnet.analysis.readers import is_block_on_maps
from gcnet.blocks import build_block

INDEPENDENT = 0.1
"""Average cosine distance up to which maps, and what is added, count as the same for all queries: in the paper's
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
        The larger of two cosine distances, of the maps and of what the layer adds: upper ends of their 95 % intervals.
    """
    parts = (layer.attention, layer.added)
    return max(part.mean if part.high is None else part.high for part in parts if part is not None)


def is_independent(layer: Layer, threshold: float = INDEPENDENT) -> bool:
    """Whether a layer with a map for each query is effectively query-independent.

    Args:
        layer: its distances.
        threshold: maximum cosine distance, 0 to 1.

    Returns:
        False also for layers with one map by construction, and for those that add nothing.
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


def reading(model: nn.Module, layers: Sequence[Layer]) -> str:
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
    said = [f"{_count(shared, 'layer')} {verb} one map for all queries by construction."] if shared else []
    if dependent:
        said.insert(0, _of_dependent(model, dependent))
    return " ".join(said)


def _of_dependent(model: nn.Module, layers: Sequence[Layer]) -> str:
    found = [layer for layer in layers if is_independent(layer)]
    new = [layer for layer in layers if layer.adds_nothing]
    text = f"Attention does not depend on the query in {len(found)} of {_count(len(layers), 'layer')} where it could"
    text += f" ({_names(found)}): their maps, and what they add, are {INDEPENDENT:g} apart at most." if found else "."
    if new:
        text += (
            f" Like new blocks, {_count(len(new), 'layer')} so far add{'s' * (len(new) == 1)} nothing ({_names(new)})."
        )
    savings = [saving for layer in found if (saving := gc_instead(model.get_submodule(layer.name), layer))]
    return f"{text} {_saved(savings)}" if savings else text


def _saved(savings: Sequence[Saving]) -> str:
    parameters, gc_parameters = (sum(getattr(one, name) for one in savings) for name in ("parameters", "gc_parameters"))
    flops, gc_flops = (sum(getattr(one, name) for one in savings) for name in ("flops", "gc_flops"))
    place = "there" if len(savings) > 1 else "in its place"
    return (
        f"A gc block {place} would do: {gc_parameters:,} parameters instead of {parameters:,} "
        f"({gc_parameters / parameters - 1:+.0%}), {gc_flops / 1e6:,.3g} MFLOPs an image instead of "
        f"{flops / 1e6:,.3g} ({gc_flops / flops - 1:+.0%})."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _names(layers: Sequence[Layer]) -> str:
    names = [layer.name or layer.kind for layer in layers]
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
