"""Conversion of context blocks of other libraries, by the key tables of the weight sources."""

import warnings
from collections.abc import Mapping
from functools import reduce
from itertools import product
from operator import or_

from torch import Tensor, nn

from gcnet.blocks import build_block
from gcnet.checkpoints import mmcv, timm, torchvision
from gcnet.checkpoints.source import BlockWeights, Source, Table, WrongShape, kernel
from gcnet.errors import UserError, unknown
from gcnet.framework.block import ContextBlock

SOURCES: dict[str, Source] = mmcv.SOURCES | timm.SOURCES | torchvision.SOURCES

_PARTS = {
    "gate": ("Sigmoid",),
    "scale_activation": ("Sigmoid",),
    "act": ("ReLU",),
    "activation": ("ReLU",),
}
"""Names of parts in the blocks of timm and torchvision, and what our blocks have there."""


def convert_block(state_dict: Mapping[str, Tensor] | nn.Module, source: str) -> dict[str, Tensor]:
    """Convert the weights of one block of another library to our keys and shapes.

    Args:
        state_dict: of one block, keys without a prefix, kernels with 1, 2 or 3 spatial axes; or the block itself, whose
            gate, activation and pooling, which keys do not show, are then checked.
        source: `mmcv_context` (ContextBlock), `mmcv_non_local` (NonLocal1d, 2d, 3d), `timm_global_context`
            (GlobalContext), `timm_se` (SEModule), `timm_eca` (EcaModule) or `torchvision_se` (SqueezeExcitation).

    Returns:
        The weights; dtype, device and memory are those of the source.

    Raises:
        UserError: an unknown source, an unknown or missing key, a wrong shape, or a block with another gate or
            activation than ours.
    """
    state_dict = _weights_of(state_dict)
    table = _table(state_dict, source)
    converted = {}
    for key, tensor in state_dict.items():
        name, reshape = table[key]
        try:
            converted[name] = reshape(tensor)
        except WrongShape as expected:
            raise UserError(
                f'"{key}" of {source} weights must have shape {expected}, found {tuple(tensor.shape)}'
            ) from None
    if "add.transform.0.weight" in converted:
        # mmcv's convolution before a batch norm has no bias, which equals a zero bias.
        weight = converted["add.transform.0.weight"]
        converted["add.transform.0.bias"] = weight.new_zeros(weight.shape[0])
    return converted


def infer_block(
    state_dict: Mapping[str, Tensor] | nn.Module,
    source: str,
    channels: int,
    *,
    mode: str | None = None,
    use_scale: bool | None = None,
) -> ContextBlock:
    """Build the block of weights from another library, and load them.

    Dtype and spatial axes are those of the weights. Activations and gates are assumed to be the defaults of the source
    (ReLU, sigmoid), since keys do not show them; pass the block itself to have them checked.

    Args:
        state_dict: as for `convert_block`.
        source: as for `convert_block`.
        channels: C of the maps.
        mode: for `mmcv_non_local`, mmcv's mode; needed to tell `dot_product` from `embedded_gaussian`, which have equal
            keys.
        use_scale: for `mmcv_non_local` of mode `embedded_gaussian`; None is mmcv's default, True.

    Returns:
        The block.

    Raises:
        UserError: as for `convert_block`; a missing or contradictory `mode`; weights that do not fit `channels`; sizes
            that our builder refuses.
    """
    state_dict = _weights_of(state_dict)
    converted = convert_block(state_dict, source)
    if not SOURCES[source].has_modes and (mode is not None or use_scale is not None):
        with_modes = ", ".join(name for name, other in SOURCES.items() if other.has_modes)
        raise UserError(f"`mode` and `use_scale` are options of {with_modes} weights, found {source}")
    name, options = SOURCES[source].describe(BlockWeights(state_dict, converted, channels, mode, use_scale))
    table = _table(state_dict, source)
    first = next(iter(state_dict.values()))
    matrix = next((tensor for key, tensor in state_dict.items() if table[key][1] is kernel), None)
    dims = 2 if matrix is None else matrix.dim() - 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LayerNorm over")  # The weights have decided the width already.
        block = build_block(name, channels=channels, dims=dims, **options)
    assert isinstance(block, ContextBlock)
    fitting = {key: tensor.shape for key, tensor in block.state_dict().items()}
    for key, tensor in state_dict.items():
        name = table[key][0]
        if converted[name].shape != fitting[name]:
            raise UserError(
                f'"{key}" has shape {tuple(tensor.shape)}, which does not fit a block of {channels} channels: '
                f"its {name} is {tuple(fitting[name])}"
            )
    block.to(dtype=first.dtype).load_state_dict(converted)
    return block


def _weights_of(block: Mapping[str, Tensor] | nn.Module) -> Mapping[str, Tensor]:
    """The state dict; of a block itself only if it computes what our block does."""
    if not isinstance(block, nn.Module):
        return block
    for name, module in block.named_modules():
        for attribute, valid in _PARTS.items():
            part = getattr(module, attribute, None)
            kind = type(part).__name__ if isinstance(part, nn.Module) else getattr(part, "__name__", None)
            if kind is not None and kind not in valid:
                raise UserError(
                    f"{name and name + '.'}{attribute} of this {type(block).__name__} is {kind}, and our block has "
                    f"{valid[0]} there: its weights would give other outputs"
                )
        if getattr(module, "add_maxpool", False):
            raise UserError(
                f"this {type(block).__name__} adds max pooling (add_maxpool), which our block does not have"
            )
    return block.state_dict()


def _table(state_dict: Mapping[str, Tensor], source: str) -> Table:
    """The source's table whose keys are those of the weights, or the error that names what differs from the nearest."""
    if source not in SOURCES:
        raise unknown("source", source, SOURCES)
    tables = [reduce(or_, groups) for groups in product(*SOURCES[source].tables)]
    keys = set(state_dict)
    table = min(tables, key=lambda candidate: len(keys ^ set(candidate)))
    differences = [
        f"{kind} {', '.join(names)}"
        for kind, names in (("unknown", sorted(keys - set(table))), ("missing", sorted(set(table) - keys)))
        if names
    ]
    if differences:
        raise UserError(f"these are not the weights of one block of {source}: {'; '.join(differences)}")
    return table
