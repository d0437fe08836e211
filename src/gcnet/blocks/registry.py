"""`BLOCKS`, the specs by name, and `build_block`."""

import inspect
from numbers import Integral
from typing import Any

from torch import nn

from gcnet.blocks import attention, channel, non_local, paper, squeeze_variants
from gcnet.blocks.options import check_types
from gcnet.blocks.spec import BlockSpec, Builder
from gcnet.errors import UserError, nearest, unknown
from gcnet.renamed import new_name, renamed

BLOCKS: dict[str, BlockSpec] = paper.SPECS | non_local.SPECS | attention.SPECS | channel.SPECS | squeeze_variants.SPECS

_OTHER_NAMES = {
    "gc": ("gcnet", "gcb", "gcblock", "gc_block", "global_context", "globalcontext", "context_block", "contextblock"),
    "nl_embedded_gaussian": ("nl", "nonlocal", "non_local", "non-local", "nlnet", "nonlocal2d"),
    "snl": ("simplified_nl", "simplified_non_local"),
    "se": ("senet", "squeeze_excite", "squeeze_excitation", "squeeze-excitation", "squeezeexcitation"),
    "eca": ("ecanet", "ecam"),
    "ese": ("effective_se", "effective_squeeze_excitation"),
    "fca": ("fcanet",),
    "ge": ("genet", "gather_excite"),
    "dnl": ("dnlnet", "disentangled_non_local"),
}
_SYNONYMS = {other: name for name, others in _OTHER_NAMES.items() for other in others}


def list_blocks() -> list[str]:
    """Return the block names that `build_block` knows."""
    return list(BLOCKS)


def find_builder(block: str | Builder) -> Builder:
    """Return the builder of a named block; a builder of the user's own is returned unchanged.

    Args:
        block: a name of `list_blocks()`, or a builder, `channels -> module`.

    Raises:
        UserError: an unknown name, or neither a name nor a builder.
    """
    if isinstance(block, nn.Module) or not (isinstance(block, str) or callable(block)):
        shown = f"a module, {type(block).__name__}" if isinstance(block, nn.Module) else repr(block)
        raise UserError(f"`block` must be a name of list_blocks() or a builder, channels -> module; found {shown}")
    if not isinstance(block, str):
        return block
    if block not in BLOCKS:
        raise unknown("block", block, BLOCKS, synonyms=_SYNONYMS)
    return BLOCKS[block].build


def block_options(block: str | Builder) -> tuple[str, ...]:
    """Return the options of the builder of `block`, a name or builder, beyond `channels` and `dims`."""
    parameters = list(inspect.signature(find_builder(block)).parameters.values())[1:]
    return tuple(
        parameter.name
        for parameter in parameters
        if parameter.name != "dims" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    )


def default_ratio(block: str) -> float | None:
    """Return the ratio that `block`, a name, has by default; None of a block without ratio."""
    parameter = inspect.signature(find_builder(block)).parameters.get("ratio")
    return None if parameter is None else parameter.default


def check_options(block: str | Builder, options: dict[str, Any]) -> None:
    """Check that a block takes the given options.

    Args:
        block: a name of `list_blocks()`, or a builder.
        options: values by name.

    Raises:
        UserError: an option that the builder does not take; the message lists those it does.
    """
    parameters = inspect.signature(find_builder(block)).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return  # A builder of the user's own that takes any option.
    valid = block_options(block)
    for option in options:
        if option not in valid:
            if (new := new_name(option)) in valid:
                raise renamed(option, new)
            listing = ", ".join(valid) or "none"
            proposal = nearest(option, valid) or ";"
            raise UserError(f'block "{_name(block)}" takes no option "{option}"{proposal} its options: {listing}')


def build_block(
    name: str | Builder, *, channels: int, ratio: float | None = None, dims: int = 2, **options: Any
) -> nn.Module:
    """Build a block by name, or with a builder of your own, `channels -> module`.

    Args:
        name: one of `list_blocks()`, or a builder.
        channels: C of the maps, `(N, C, *S)`.
        ratio: the paper's r: the bottleneck has channels/r channels; None for the block's own default (16).
        dims: number of spatial axes of the maps: 1, 2 or 3; passed to a builder of your own only if it takes it.
        **options: further options of the block, as in the docstring of its builder.

    Returns:
        The block, a module of maps `(N, C, *S)` to maps of the same shape.

    Raises:
        UserError: unknown name or option, or an invalid value.

    Example:
        >>> import torch
        >>> block = build_block("gc", channels=64, ratio=16)
        >>> block(torch.rand(2, 64, 7, 7)).shape
        torch.Size([2, 64, 7, 7])
    """
    if isinstance(channels, bool) or not isinstance(channels, Integral) or channels < 1:
        raise UserError(f"`channels` must be a whole number, at least 1; found {channels!r}")
    if dims not in (1, 2, 3):
        raise UserError(f"`dims` must be 1, 2 or 3 spatial axes, found {dims}")
    if ratio is not None:
        options["ratio"] = ratio
    check_options(name, options)
    builder = find_builder(name)
    if isinstance(name, str):
        check_types(builder, options)
    if "dims" in inspect.signature(builder).parameters:
        options["dims"] = dims
    built: object = builder(channels, **options)
    if not isinstance(built, nn.Module):
        raise UserError(f"a builder must return a module, but {_name(name)} returned {built!r}")
    return built


def _name(block: str | Builder) -> str:
    return block if isinstance(block, str) else getattr(block, "__name__", repr(block))
