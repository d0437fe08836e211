"""Residual blocks of known networks: their stages in the paper's numbers, adding and removing a context block."""

import inspect
import re
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import nn

from gcnet.errors import UserError, unknown
from gcnet.models.insertion.stages import Candidate
from gcnet.models.residual.position import POSITIONS, Positioned

_LAYER = re.compile(r"(?:^|\.)layer(\d+)\.(\d+)$")


@dataclass(frozen=True)
class ResidualFamily:
    """Residual blocks of one kind: the class that runs a context, and how the paper counts their stages."""

    home: str
    name: str
    first_stage: int
    default_stages: tuple[int, ...]
    default_ratio: float | None
    bottleneck: bool


_CIFAR = ResidualFamily("gcnet.models.residual.cifar", "BasicBlockWithContext", 1, (1, 2, 3), 4, bottleneck=False)
_SCENES = ResidualFamily("gcnet.models.residual.scenes", "SceneBottleneckWithContext", 1, (1,), 4, bottleneck=True)
_IMAGENET: dict[str, Any] = {"first_stage": 2, "default_stages": (3, 4, 5), "default_ratio": None}
_FAMILIES = {
    "gcnet.models.cifar_resnet.BasicBlock": _CIFAR,
    "gcnet.models.scenes_resnet.SceneBottleneck": _SCENES,
} | {
    f"{host}.{name}": ResidualFamily(
        f"gcnet.models.residual.{library}", f"{name}WithContext", bottleneck=name == "Bottleneck", **_IMAGENET
    )
    for library, host in (("torchvision", "torchvision.models.resnet"), ("timm", "timm.models.resnet"))
    for name in ("BasicBlock", "Bottleneck")
}


def residual_family(module: nn.Module) -> ResidualFamily | None:
    """The family of a residual block, or None."""
    host = _host_class(module)
    return None if host is None else _FAMILIES[_path(host)]


def residual_candidates(model: nn.Module) -> list[Candidate]:
    """The residual blocks of known families, with their stages in the paper's numbers."""
    found = []
    for name, module in model.named_modules():
        family = residual_family(module)
        layer = _LAYER.search(name)
        if family is not None and layer is not None:
            found.append(Candidate(name, int(layer[1]) - 1 + family.first_stage, int(layer[2])))
    return found


def require_position(name: str, module: nn.Module, position: object) -> None:
    """Raise UserError unless the residual block `name` has this position and the forward of its library."""
    if position not in POSITIONS:
        raise unknown("position", str(position), POSITIONS)
    family = residual_family(module)
    if family is None:
        raise UserError(
            f"position is for residual blocks of ResNets and ResNeXts, and {name} is a {type(module).__name__}: "
            f"without position= the block acts on its output"
        )
    if position == "after_conv2" and not family.bottleneck:
        raise UserError(f"position after_conv2 is for bottlenecks, and {name} is a basic block")
    replaced = _replaced_forward(module)
    if replaced:
        raise UserError(
            f"a block within a residual block needs the forward of its library, and {replaced} was replaced: "
            f'insert before that, or give at="{name}" for a block on its output'
        )


def position_child(position: str) -> str:
    """The child of a residual block whose output has the channels of `position`; empty for the block's own output."""
    return "bn2" if position == "after_conv2" else ""


def into_residual(module: nn.Module, context: nn.Module, position: Any) -> None:
    """Turn a residual block that passed `require_position` into one whose forward runs `context` at `position`."""
    family = residual_family(module)
    assert family is not None
    module.__class__ = getattr(import_module(family.home), family.name)
    module.context = context
    module.context_position = position


def out_of_residual(module: nn.Module) -> None:
    """Undo `into_residual`."""
    host = _host_class(module)
    assert host is not None
    module._modules.pop("context", None)
    vars(module).pop("context_position", None)
    module.__class__ = host


def _replaced_forward(module: nn.Module) -> str | None:
    """Whose forward is not the one in the source of its class: the instance's or the class's; None where it is."""
    kind: Any = _host_class(module)
    assert kind is not None
    if "forward" in vars(module):
        return f"the forward of this {kind.__name__}"
    definer: Any = next(base for base in kind.__mro__ if "forward" in vars(base))
    # Our own may be wrapped by a checker of types.
    forward = inspect.unwrap(definer.forward) if definer.__module__.startswith("gcnet.") else definer.forward
    code = getattr(forward, "__code__", None)
    own = code is not None and code.co_filename == sys.modules[definer.__module__].__file__
    return None if own and code.co_qualname == f"{definer.__qualname__}.forward" else f"the forward of {kind.__name__}"


def _host_class(module: nn.Module) -> type | None:
    # A subclass may have a forward of its own, so only the class itself counts, or the one that a context was put into.
    kinds = type(module).__mro__ if isinstance(module, Positioned) else (type(module),)
    return next((kind for kind in kinds if _path(kind) in _FAMILIES), None)


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
