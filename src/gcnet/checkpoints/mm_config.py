"""Configuration texts in checkpoints of the OpenMMLab libraries: parsed, never executed."""

import ast
from collections.abc import Mapping
from typing import Any

from gcnet.checkpoints.weight_file import WeightFile

_LONGEST = 1_000_000  # letters
_DEEPEST = 40


def config_of(weights: WeightFile) -> dict[str, Any]:
    """Return the configuration in the metadata of a checkpoint, with None for values that are no literals.

    mmengine writes it as `meta.cfg`, mmcv 1 and mmdet 1.x as `meta.config`.

    Args:
        weights: the checkpoint.

    Returns:
        Values by name; empty without a readable configuration.
    """
    text = weights.text("meta", "cfg") or weights.text("meta", "config")
    try:
        tree = ast.parse(text[:_LONGEST])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return {
        target.id: _literal(statement.value, 0)
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def backbone_config(weights: WeightFile) -> Mapping[str, Any]:
    """Return `model.backbone` of the configuration in `weights`, empty if there is none."""
    model = config_of(weights).get("model")
    backbone = model.get("backbone") if isinstance(model, dict) else None
    return backbone if isinstance(backbone, dict) else {}


def class_names(weights: WeightFile) -> tuple[str, ...] | None:
    """Return the class names in the metadata, None if there are none.

    mmengine writes them as `meta.dataset_meta.classes` (CLASSES in its first versions), mmcv 1 as `meta.CLASSES`.

    Args:
        weights: the checkpoint.
    """
    entries = (("dataset_meta", "classes"), ("dataset_meta", "CLASSES"), ("CLASSES",))
    return next((names for entry in entries if (names := weights.texts("meta", *entry))), None)


def _literal(node: ast.expr, depth: int) -> Any:
    """The value of an expression of literals and `dict(...)`; None for anything else."""
    if depth > _DEEPEST:
        return None
    match node:
        case ast.Constant():
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.BinOp(left=ast.Constant(value=int() | float() as over), op=ast.Div(), right=ast.Constant(value=under)):
            return _quotient(over, under)
        case ast.List() | ast.Tuple():
            return [_literal(item, depth + 1) for item in node.elts]
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            return {key.value: _literal(value, depth + 1) for key, value in pairs if isinstance(key, ast.Constant)}
        case ast.Call(func=ast.Name(id="dict")):
            return {item.arg: _literal(item.value, depth + 1) for item in node.keywords if item.arg is not None}
    return None


def _quotient(over: float, under: object) -> float | None:
    try:
        return over / under if isinstance(under, int | float) else None
    except (ZeroDivisionError, OverflowError):
        return None
