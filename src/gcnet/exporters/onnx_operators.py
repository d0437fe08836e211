"""ONNX translations of operators that PyTorch's exporter does not know."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from gcnet.ops import group_suppression  # noqa: F401  (registers the operator)


def translations() -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """Return the translation of each operator, as `custom_translation_table` of `torch.onnx.export`."""
    return {torch.ops.gcnet.suppress_groups.default: _suppress_groups}


_EVERY_BOX = 2**63 - 1
_BOOL = 9  # onnx.TensorProto.BOOL


def _suppress_groups(boxes: Any, scores: Any, threshold: float) -> Any:
    """NonMaxSuppression, whose list of indices becomes a mask of fixed size."""
    import onnxscript

    op: Any = onnxscript.opset20
    indices = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, [1]), _EVERY_BOX, threshold, -0.5)  # (kept, 3)
    places = op.Gather(indices, [0, 2], axis=1)  # group and box
    ones = op.Expand(op.Constant(value_ints=[1]), op.Shape(places, start=0, end=1))
    zeros = op.Expand(op.Constant(value_ints=[0]), op.Shape(scores))
    return op.Cast(op.ScatterND(zeros, places, ones), to=_BOOL)
