"""Converts weights of other libraries' context blocks: one key table per source."""

import warnings
from collections.abc import Callable, Mapping
from functools import reduce
from itertools import product
from operator import or_
from typing import Any

from torch import Tensor, nn

from gcnet.blocks import build_block
from gcnet.errors import UserError, unknown
from gcnet.framework.block import ContextBlock


class _WrongShape(Exception):
    """A tensor cannot be what its key says; the text is the shape expected."""


def _kernel(tensor: Tensor) -> Tensor:
    """(out, in, 1, ...) with 1, 2 or 3 spatial axes -> (out, in)."""
    if tensor.dim() not in (3, 4, 5) or any(side != 1 for side in tensor.shape[2:]):
        raise _WrongShape("(out, in, 1), (out, in, 1, 1) or (out, in, 1, 1, 1)")
    return tensor.reshape(tensor.shape[:2])


def _vector(tensor: Tensor) -> Tensor:
    if tensor.dim() != 1:
        raise _WrongShape("(channels,)")
    return tensor


def _layer_norm(tensor: Tensor) -> Tensor:
    """(P, 1, 1), a LayerNorm over all axes of a pooled map -> (P,)."""
    if tensor.dim() != 3 or tensor.shape[1:] != (1, 1):
        raise _WrongShape("(channels, 1, 1)")
    return tensor.reshape(-1)


def _query_then_key(tensor: Tensor) -> Tensor:
    """(1, 2 D, 1, 1), which scores query and key concatenated -> (2, D)."""
    if tensor.dim() != 4 or tensor.shape[0] != 1 or tensor.shape[1] % 2 or tensor.shape[2:] != (1, 1):
        raise _WrongShape("(1, 2 x channels, 1, 1)")
    return tensor.reshape(2, -1)


def _count(tensor: Tensor) -> Tensor:
    if tensor.dim() != 0:
        raise _WrongShape("()")
    return tensor


# Source key -> our key, and how the tensor's shape becomes ours.
Table = dict[str, tuple[str, Callable[[Tensor], Tensor]]]

_MMCV_ATTENTION: Table = {
    "conv_mask.weight": ("context.key.weight", _kernel),
    "conv_mask.bias": ("context.key.bias", _vector),
}
_MMCV_ADD: Table = {
    "channel_add_conv.0.weight": ("add.transform.reduce.weight", _kernel),
    "channel_add_conv.0.bias": ("add.transform.reduce.bias", _vector),
    "channel_add_conv.1.weight": ("add.transform.norm.weight", _layer_norm),
    "channel_add_conv.1.bias": ("add.transform.norm.bias", _layer_norm),
    "channel_add_conv.3.weight": ("add.transform.expand.weight", _kernel),
    "channel_add_conv.3.bias": ("add.transform.expand.bias", _vector),
}
_MMCV_SCALE: Table = {
    "channel_mul_conv.0.weight": ("scale.transform.reduce.weight", _kernel),
    "channel_mul_conv.0.bias": ("scale.transform.reduce.bias", _vector),
    "channel_mul_conv.1.weight": ("scale.transform.norm.weight", _layer_norm),
    "channel_mul_conv.1.bias": ("scale.transform.norm.bias", _layer_norm),
    "channel_mul_conv.3.weight": ("scale.transform.expand.weight", _kernel),
    "channel_mul_conv.3.bias": ("scale.transform.expand.bias", _vector),
}
_MMCV_VALUE: Table = {
    "g.conv.weight": ("context.value.weight", _kernel),
    "g.conv.bias": ("context.value.bias", _vector),
}
_MMCV_VALUE_SUB_SAMPLED: Table = {
    "g.0.conv.weight": ("context.value.weight", _kernel),
    "g.0.conv.bias": ("context.value.bias", _vector),
}
_MMCV_QUERY: Table = {
    "theta.conv.weight": ("context.query.weight", _kernel),
    "theta.conv.bias": ("context.query.bias", _vector),
}
_MMCV_KEY: Table = {
    "phi.conv.weight": ("context.key.weight", _kernel),
    "phi.conv.bias": ("context.key.bias", _vector),
}
_MMCV_KEY_SUB_SAMPLED: Table = {
    "phi.0.conv.weight": ("context.key.weight", _kernel),
    "phi.0.conv.bias": ("context.key.bias", _vector),
}
_MMCV_SCORE: Table = {"concat_project.conv.weight": ("context.affinity.weight", _query_then_key)}
_MMCV_OUT: Table = {
    "conv_out.conv.weight": ("add.transform.weight", _kernel),
    "conv_out.conv.bias": ("add.transform.bias", _vector),
}
_MMCV_OUT_NORMALISED: Table = {
    "conv_out.conv.weight": ("add.transform.0.weight", _kernel),
    "conv_out.bn.weight": ("add.transform.1.weight", _vector),
    "conv_out.bn.bias": ("add.transform.1.bias", _vector),
    "conv_out.bn.running_mean": ("add.transform.1.running_mean", _vector),
    "conv_out.bn.running_var": ("add.transform.1.running_var", _vector),
    "conv_out.bn.num_batches_tracked": ("add.transform.1.num_batches_tracked", _count),
}
_TIMM_ATTENTION: Table = {
    "conv_attn.weight": ("context.key.weight", _kernel),
    "conv_attn.bias": ("context.key.bias", _vector),
}
_TIMM_ADD: Table = {
    "mlp_add.fc1.weight": ("add.transform.reduce.weight", _kernel),
    "mlp_add.fc1.bias": ("add.transform.reduce.bias", _vector),
    "mlp_add.norm.weight": ("add.transform.norm.weight", _vector),
    "mlp_add.norm.bias": ("add.transform.norm.bias", _vector),
    "mlp_add.fc2.weight": ("add.transform.expand.weight", _kernel),
    "mlp_add.fc2.bias": ("add.transform.expand.bias", _vector),
}
_TIMM_SCALE: Table = {
    "mlp_scale.fc1.weight": ("scale.transform.reduce.weight", _kernel),
    "mlp_scale.fc1.bias": ("scale.transform.reduce.bias", _vector),
    "mlp_scale.norm.weight": ("scale.transform.norm.weight", _vector),
    "mlp_scale.norm.bias": ("scale.transform.norm.bias", _vector),
    "mlp_scale.fc2.weight": ("scale.transform.expand.weight", _kernel),
    "mlp_scale.fc2.bias": ("scale.transform.expand.bias", _vector),
}
_SQUEEZE_EXCITATION: Table = {
    "fc1.weight": ("scale.transform.reduce.weight", _kernel),
    "fc1.bias": ("scale.transform.reduce.bias", _vector),
    "fc2.weight": ("scale.transform.expand.weight", _kernel),
    "fc2.bias": ("scale.transform.expand.bias", _vector),
}

# A source's keys are one table from each of its groups.
SOURCES: dict[str, tuple[tuple[Table, ...], ...]] = {
    "mmcv_context": (
        (_MMCV_ATTENTION, {}),
        (_MMCV_ADD, _MMCV_SCALE, _MMCV_SCALE | _MMCV_ADD),
    ),
    "mmcv_non_local": (
        (
            _MMCV_VALUE | _MMCV_QUERY | _MMCV_KEY,
            _MMCV_VALUE | _MMCV_QUERY | _MMCV_KEY | _MMCV_SCORE,
            _MMCV_VALUE,
            _MMCV_VALUE_SUB_SAMPLED | _MMCV_QUERY | _MMCV_KEY_SUB_SAMPLED,
            _MMCV_VALUE_SUB_SAMPLED | _MMCV_QUERY | _MMCV_KEY_SUB_SAMPLED | _MMCV_SCORE,
            _MMCV_VALUE_SUB_SAMPLED,
        ),
        (_MMCV_OUT, _MMCV_OUT_NORMALISED),
    ),
    "timm_global_context": (
        (_TIMM_ATTENTION, {}),
        (_TIMM_SCALE, _TIMM_ADD, _TIMM_SCALE | _TIMM_ADD),
    ),
    "timm_se": ((_SQUEEZE_EXCITATION,),),
    "torchvision_se": ((_SQUEEZE_EXCITATION,),),
}

_PARTS = {
    "gate": ("Sigmoid",),
    "scale_activation": ("Sigmoid",),
    "act": ("ReLU",),
    "activation": ("ReLU",),
}
"""Names of parts in the blocks of timm and torchvision, and what our blocks have there."""

_LAYER_NORM_EPSILON = {"mmcv_context": 1e-5, "timm_global_context": 1e-6}
_MODES = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")


def convert_block(state_dict: Mapping[str, Tensor] | nn.Module, source: str) -> dict[str, Tensor]:
    """The weights of one block of another library, with our keys and shapes; dtype, device and memory are the source's.

    Args:
        state_dict: of one block, its keys without a prefix, kernels of 1, 2 or 3 axes; or the block itself, whose gate,
            activation and pooling, which keys do not show, are then checked.
        source: `mmcv_context` (ContextBlock), `mmcv_non_local` (NonLocal1d, 2d, 3d), `timm_global_context`
            (GlobalContext), `timm_se` (SEModule) or `torchvision_se` (SqueezeExcitation).

    Raises:
        UserError: an unknown source; a key that the source's block does not have; a missing key; a wrong shape; a block
            with another gate or activation than ours.
    """
    state_dict = _weights_of(state_dict)
    table = _table(state_dict, source)
    converted = {}
    for key, tensor in state_dict.items():
        name, reshape = table[key]
        try:
            converted[name] = reshape(tensor)
        except _WrongShape as expected:
            raise UserError(
                f'"{key}" of {source} weights must have shape {expected}, found {tuple(tensor.shape)}'
            ) from None
    if "add.transform.0.weight" in converted:
        # mmcv's convolution before a batch norm has no bias; ours has one, and zero is the same.
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
    """Build the block that such weights belong to and load them; dtype and spatial axes are those of the weights.

    Activations and gates are the source's defaults (ReLU, sigmoid): keys do not show them. Pass the block itself to
    have them checked.

    Args:
        state_dict, source: as for `convert_block`.
        channels: C of the maps.
        mode: for `mmcv_non_local`, mmcv's word; needed to tell `dot_product` from `embedded_gaussian`, whose keys are
            the same.
        use_scale: for `mmcv_non_local` of mode `embedded_gaussian`; None is mmcv's default, True.

    Raises:
        UserError: as `convert_block`; a mode that is needed and missing or contradicts the keys; weights that do not
            fit `channels`; sizes that our builder refuses.
    """
    state_dict = _weights_of(state_dict)
    converted = convert_block(state_dict, source)
    if source == "mmcv_non_local":
        name, options = _non_local(state_dict, channels, mode, use_scale)
    elif mode is not None or use_scale is not None:
        raise UserError(f"mode and use_scale belong to mmcv_non_local weights, found them with {source}")
    else:
        name, options = _query_independent(converted, source, channels)
    table = _table(state_dict, source)
    kernel = next(tensor for key, tensor in state_dict.items() if table[key][1] is _kernel)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LayerNorm over")  # The weights have decided the width already.
        block = build_block(name, channels=channels, dims=kernel.dim() - 2, **options)
    assert isinstance(block, ContextBlock)
    fitting = {key: tensor.shape for key, tensor in block.state_dict().items()}
    for key, tensor in state_dict.items():
        ours = table[key][0]
        if converted[ours].shape != fitting[ours]:
            raise UserError(
                f'"{key}" has shape {tuple(tensor.shape)}, which does not fit a block of {channels} channels: '
                f"its {ours} is {tuple(fitting[ours])}"
            )
    block.to(dtype=kernel.dtype).load_state_dict(converted)
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
    tables = [reduce(or_, groups) for groups in product(*SOURCES[source])]
    found = set(state_dict)
    table = min(tables, key=lambda candidate: len(found ^ set(candidate)))
    differences = [
        f"{kind} {', '.join(keys)}"
        for kind, keys in (("unknown", sorted(found - set(table))), ("missing", sorted(set(table) - found)))
        if keys
    ]
    if differences:
        raise UserError(f"these are not the weights of one block of {source}: {'; '.join(differences)}")
    return table


def _query_independent(converted: Mapping[str, Tensor], source: str, channels: int) -> tuple[str, dict[str, Any]]:
    """Name and options of the global context or squeeze-and-excitation block of these weights."""
    fusions = [name for name in ("add", "scale") if f"{name}.transform.reduce.weight" in converted]
    ratio = channels / converted[f"{fusions[0]}.transform.reduce.weight"].shape[0]
    if source not in _LAYER_NORM_EPSILON:
        return "se", {"ratio": ratio}
    return "gc", {
        "ratio": ratio,
        "pooling": "attention" if "context.key.weight" in converted else "average",
        "fusion": "both" if len(fusions) == 2 else fusions[0],
        "norm_eps": _LAYER_NORM_EPSILON[source],
    }


def _non_local(
    state_dict: Mapping[str, Tensor], channels: int, mode: str | None, use_scale: bool | None
) -> tuple[str, dict[str, Any]]:
    """Name and options of the non-local block of these mmcv weights."""
    if mode is not None and mode not in _MODES:
        raise unknown("mode", mode, _MODES)
    if "theta.conv.weight" not in state_dict:
        possible = ("gaussian",)
    elif "concat_project.conv.weight" in state_dict:
        possible = ("concatenation",)
    else:
        possible = ("embedded_gaussian", "dot_product")
    if mode is None and len(possible) > 1:
        raise UserError("these keys are those of both modes embedded_gaussian and dot_product: give mode")
    mode = mode or possible[0]
    if mode not in possible:
        raise UserError(f"mode {mode} contradicts the keys, which are those of {' or '.join(possible)}")
    if use_scale is not None and mode != "embedded_gaussian":
        raise UserError(f"use_scale belongs to mode embedded_gaussian, found it with {mode}")
    value = state_dict.get("g.conv.weight", state_dict.get("g.0.conv.weight"))
    assert value is not None
    options = {
        "reduction": max(channels // value.shape[0], 1),
        "sub_sample": "g.0.conv.weight" in state_dict,
        "normalization": "batch" if "conv_out.bn.weight" in state_dict else "none",
    }
    if mode == "embedded_gaussian":
        options["use_scale"] = use_scale is not False
    return f"nl_{mode}", options
