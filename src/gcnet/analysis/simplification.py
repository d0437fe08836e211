"""Replaces query-independent non-local blocks by simpler blocks initialized from their weights.

Where all queries are the same, q, a softmax non-local block adds to every position the same term

    W_z sum_j a_j (W_v x_j + b_v) + b_z = W_z W_v sum_j a_j x_j + (W_z b_v + b_z),  a = softmax_j(s q . (W_k x_j + b_k))

since the a_j sum to one. That is a simplified non-local block (arXiv 1904.11492, eq. 4) with the key s W_k^T q. Where
the queries are about the same, q is their mean. The bottleneck of a GC block is no linear layer, so that it can take
over the attention alone.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gcnet.analysis.query_independence import INDEPENDENT, Layer, dependence, is_independent
from gcnet.framework.block import ContextBlock
from gcnet.framework.context import NonLocal, SoftmaxAffinity
from gcnet.framework.fusion import Add
from gcnet.framework.pointwise import Pointwise
from gcnet.insertion import inserted, replace
from gcnet.insertion.model_copies import deep_copy

# The layers of a new block that start from the weights of the one it replaces.
_TAKEN_OVER = {"snl": ("context.key", "add.transform"), "gc": ("context.key",)}


def find_non_local(model: nn.Module) -> dict[str, ContextBlock]:
    """Return the inserted non-local blocks of `model` by name (`layer3.4.context`)."""
    sites = (site.name for insertion in inserted(model) for site in insertion.sites)
    blocks = {f"{name}.context": model.get_submodule(f"{name}.context") for name in sites}
    return {
        name: block
        for name, block in blocks.items()
        if isinstance(block, ContextBlock) and isinstance(block.context, NonLocal)
    }


def why_kept(block: ContextBlock, layer: Layer, threshold: float | None = INDEPENDENT) -> str | None:
    """Return why a non-local block is not replaced.

    Args:
        block: one of `find_non_local`.
        layer: its measured distances.
        threshold: maximum cosine distance of a query-independent block; None to replace blocks of any distance.

    Returns:
        The reason, in half a sentence; None if a simpler block can replace it.
    """
    obstacle = _obstacle(block)
    if obstacle is not None or threshold is None or is_independent(layer, threshold):
        return obstacle
    if layer.adds_nothing:
        return "its output is still zero, as of a new block"
    return f"it depends on the query: {dependence(layer):.4f} apart, above {threshold:g}"


def _obstacle(block: ContextBlock) -> str | None:
    context: Any = block.context
    if not isinstance(context.affinity, SoftmaxAffinity):
        return "its weights are not normalized over positions, unlike those of snl and gc"
    if not isinstance(context.sub_sample, nn.Identity):
        return "its keys and values are max-pooled (sub_sample), unlike those of snl and gc"
    if not _is_as_built(block):
        return "it was not built by gcnet.build_block"
    return None


@contextmanager
def mean_inputs(blocks: Mapping[str, nn.Module]) -> Generator[Callable[[], dict[str, Float[Tensor, " c"]]]]:
    """Average the inputs of blocks in the context, over positions and images of one size, in float64.

    The mean of a linear layer's outputs, such as queries, is that layer's output for the mean input.

    Args:
        blocks: by name.

    Yields:
        A function that returns the means (C,) by name.
    """
    sums: dict[str, Tensor] = {}
    images = dict.fromkeys(blocks, 0)

    def adding(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            x = arguments[0].detach().flatten(2).double()
            sums[name] = sums.get(name, 0) + x.mean(2).sum(0)
            images[name] += len(x)

        return hook

    with ExitStack() as hooks:
        for name, block in blocks.items():
            hooks.callback(block.register_forward_pre_hook(adding(name)).remove)
        yield lambda: {name: total / images[name] for name, total in sums.items()}


def shared_weights(block: ContextBlock, mean_input: Float[Tensor, " c"]) -> dict[str, dict[str, Tensor]]:
    """Return the weights of the simplified non-local block that replaces a softmax non-local one, in float64.

    Args:
        block: one that `why_kept` does not refuse, in the state of its batch normalization in evaluation mode.
        mean_input: from `mean_inputs`, (C,).

    Returns:
        "context.key" and "add.transform", each with its "weight" (1, C) or (C, C), and "bias".
    """
    context: Any = block.context
    mean = mean_input.double()
    units = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
    (query, query_bias), (key, key_bias), (value, value_bias) = (
        _affine(layer, units) for layer in (context.query, context.key, context.value)
    )
    inner = torch.eye(len(value), dtype=mean.dtype, device=mean.device)
    output, output_bias = _affine(block.get_submodule("add.transform"), inner)
    mean_query = query @ mean + query_bias
    scaled_query = mean_query * (len(mean_query) ** -0.5 if context.affinity.scaled else 1)
    return {
        "context.key": {"weight": (scaled_query @ key)[None], "bias": (scaled_query @ key_bias)[None]},
        "add.transform": {"weight": output @ value, "bias": output @ value_bias + output_bias},
    }


def replace_blocks(
    model: nn.Module,
    means: Mapping[str, Float[Tensor, " c"]],
    block: Literal["snl", "gc"],
    *,
    ratio: float | None = None,
) -> nn.Module:
    """Copy a network, in eval mode, with simpler blocks in place of some of its non-local ones.

    Args:
        model: a network with inserted blocks; it does not change.
        means: mean input (C,) of each block to replace, by name, from `mean_inputs`.
        block: "snl" takes over attention and linear transform; "gc" takes over attention, and adds nothing until
            trained.
        ratio: of gc; None for the default of `gcnet.insert`.

    Returns:
        The new network.

    Raises:
        UserError: as `gcnet.insertion.insert`.
    """
    blocks = find_non_local(model)
    sites = [name.removesuffix(".context") for name in means]
    simplified = deep_copy(model).eval()
    replace(simplified, sites, block, ratio=ratio)
    for name, mean in means.items():
        weights = shared_weights(blocks[name], mean)
        for layer in _TAKEN_OVER[block]:
            simplified.get_submodule(f"{name}.{layer}").load_state_dict(weights[layer])
    return simplified


def _is_as_built(block: ContextBlock) -> bool:
    if block.branch_names != ("add",) or not isinstance(block.get_submodule("add.fusion"), Add):
        return False
    layers = ("context.query", "context.key", "context.value", "add.transform")
    return all(_is_affine(block.get_submodule(name)) for name in layers)


def _is_affine(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Sequential):
        return all(map(_is_affine, layer))
    return isinstance(layer, Pointwise | nn.Identity) or (isinstance(layer, _BatchNorm) and layer.track_running_stats)


def _affine(layer: nn.Module, inputs: Float[Tensor, "c c"]) -> tuple[Float[Tensor, "d c"], Float[Tensor, " d"]]:
    """Weight and bias of a layer of `_is_affine`: its output for the unit vectors in `inputs` (float64), and for 0."""
    layer = deep_copy(layer).double().eval()
    with torch.no_grad():
        bias = layer(torch.zeros_like(inputs[:1, :, None]))[0, :, 0]
        return (layer(inputs[:, :, None])[:, :, 0] - bias).T, bias
