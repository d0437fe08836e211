"""Weight source mmcv: `ContextBlock` and `NonLocal1d`, `NonLocal2d`, `NonLocal3d`."""

from functools import partial
from typing import Any

from gcnet.checkpoints.source import (
    BlockWeights,
    Source,
    Table,
    describe_gc,
    kernel,
    layer_norm,
    query_then_key,
    scalar,
    vector,
)
from gcnet.errors import UserError, unknown

_ATTENTION: Table = {
    "conv_mask.weight": ("context.key.weight", kernel),
    "conv_mask.bias": ("context.key.bias", vector),
}
_ADD: Table = {
    "channel_add_conv.0.weight": ("add.transform.reduce.weight", kernel),
    "channel_add_conv.0.bias": ("add.transform.reduce.bias", vector),
    "channel_add_conv.1.weight": ("add.transform.norm.weight", layer_norm),
    "channel_add_conv.1.bias": ("add.transform.norm.bias", layer_norm),
    "channel_add_conv.3.weight": ("add.transform.expand.weight", kernel),
    "channel_add_conv.3.bias": ("add.transform.expand.bias", vector),
}
_SCALE: Table = {
    "channel_mul_conv.0.weight": ("scale.transform.reduce.weight", kernel),
    "channel_mul_conv.0.bias": ("scale.transform.reduce.bias", vector),
    "channel_mul_conv.1.weight": ("scale.transform.norm.weight", layer_norm),
    "channel_mul_conv.1.bias": ("scale.transform.norm.bias", layer_norm),
    "channel_mul_conv.3.weight": ("scale.transform.expand.weight", kernel),
    "channel_mul_conv.3.bias": ("scale.transform.expand.bias", vector),
}
_VALUE: Table = {
    "g.conv.weight": ("context.value.weight", kernel),
    "g.conv.bias": ("context.value.bias", vector),
}
_VALUE_SUB_SAMPLED: Table = {
    "g.0.conv.weight": ("context.value.weight", kernel),
    "g.0.conv.bias": ("context.value.bias", vector),
}
_QUERY: Table = {
    "theta.conv.weight": ("context.query.weight", kernel),
    "theta.conv.bias": ("context.query.bias", vector),
}
_KEY: Table = {
    "phi.conv.weight": ("context.key.weight", kernel),
    "phi.conv.bias": ("context.key.bias", vector),
}
_KEY_SUB_SAMPLED: Table = {
    "phi.0.conv.weight": ("context.key.weight", kernel),
    "phi.0.conv.bias": ("context.key.bias", vector),
}
_SCORE: Table = {"concat_project.conv.weight": ("context.affinity.weight", query_then_key)}
_OUT: Table = {
    "conv_out.conv.weight": ("add.transform.weight", kernel),
    "conv_out.conv.bias": ("add.transform.bias", vector),
}
_OUT_NORMALIZED: Table = {
    "conv_out.conv.weight": ("add.transform.0.weight", kernel),
    "conv_out.bn.weight": ("add.transform.1.weight", vector),
    "conv_out.bn.bias": ("add.transform.1.bias", vector),
    "conv_out.bn.running_mean": ("add.transform.1.running_mean", vector),
    "conv_out.bn.running_var": ("add.transform.1.running_var", vector),
    "conv_out.bn.num_batches_tracked": ("add.transform.1.num_batches_tracked", scalar),
}

_MODES = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")


def _describe_non_local(weights: BlockWeights) -> tuple[str, dict[str, Any]]:
    """Name and options of our non-local block."""
    mode = weights.mode
    if mode is not None and mode not in _MODES:
        raise unknown("mode", mode, _MODES)
    if "theta.conv.weight" not in weights.state_dict:
        possible = ("gaussian",)
    elif "concat_project.conv.weight" in weights.state_dict:
        possible = ("concatenation",)
    else:
        possible = ("embedded_gaussian", "dot_product")
    if mode is None and len(possible) > 1:
        raise UserError("the keys fit both modes embedded_gaussian and dot_product: give `mode`")
    mode = mode or possible[0]
    if mode not in possible:
        raise UserError(f"`mode={mode}` contradicts the keys, which fit {' or '.join(possible)}")
    if weights.use_scale is not None and mode != "embedded_gaussian":
        raise UserError(f"`use_scale` needs mode embedded_gaussian, found {mode}")
    value = weights.state_dict.get("g.conv.weight", weights.state_dict.get("g.0.conv.weight"))
    assert value is not None
    options = {
        "reduction": max(weights.channels // value.shape[0], 1),
        "sub_sample": "g.0.conv.weight" in weights.state_dict,
        "normalization": "batch" if "conv_out.bn.weight" in weights.state_dict else "none",
    }
    if mode == "embedded_gaussian":
        options["use_scale"] = weights.use_scale is not False
    return f"nl_{mode}", options


CONTEXT_TABLE: Table = _ATTENTION | _ADD | _SCALE
"""Keys of `ContextBlock` with all its parts."""


def non_local_table(mode: str, *, sub_sample: bool, normalized: bool) -> Table:
    """Return the keys of a `NonLocalNd` block.

    Args:
        mode: mmcv's mode.
        sub_sample: whether keys and values are pooled.
        normalized: whether a batch norm follows the output convolution.
    """
    table = _VALUE_SUB_SAMPLED if sub_sample else _VALUE
    if mode != "gaussian":
        table = table | _QUERY | (_KEY_SUB_SAMPLED if sub_sample else _KEY)
    if mode == "concatenation":
        table = table | _SCORE
    return table | (_OUT_NORMALIZED if normalized else _OUT)


SOURCES = {
    "mmcv_context": Source(
        tables=((_ATTENTION, {}), (_ADD, _SCALE, _SCALE | _ADD)), describe=partial(describe_gc, norm_eps=1e-5)
    ),
    "mmcv_non_local": Source(
        tables=(
            (
                _VALUE | _QUERY | _KEY,
                _VALUE | _QUERY | _KEY | _SCORE,
                _VALUE,
                _VALUE_SUB_SAMPLED | _QUERY | _KEY_SUB_SAMPLED,
                _VALUE_SUB_SAMPLED | _QUERY | _KEY_SUB_SAMPLED | _SCORE,
                _VALUE_SUB_SAMPLED,
            ),
            (_OUT, _OUT_NORMALIZED),
        ),
        describe=_describe_non_local,
        has_modes=True,
    ),
}
