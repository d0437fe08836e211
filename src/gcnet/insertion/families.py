"""Known families of networks: their residual or token blocks by stage, and adding a block inside a residual block."""

import inspect
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from numbers import Integral
from typing import Any

from torch import nn

from gcnet.errors import UserError, unknown
from gcnet.insertion.dry_run import Call, DryRun
from gcnet.insertion.layout import Axes
from gcnet.insertion.residual_blocks.position import POSITIONS, Positioned

_WORD = re.compile(r"c(\d+)")


@dataclass(frozen=True)
class Candidate:
    """A module that can take a context block: its stage (in the paper's numbers, 4 for c4), its index within it."""

    name: str
    stage: int
    index: int


def stage_of(word: object) -> int | None:
    """4 of "c4"; None of what is no stage's word."""
    match = _WORD.fullmatch(word) if isinstance(word, str) else None
    return int(match[1]) if match else None


def choose(
    candidates: Sequence[Candidate],
    stages: Sequence[int],
    blocks: Sequence[int] | None,
) -> list[Candidate]:
    """The candidates of `stages` with the indices `blocks` (None: all), in network order.

    Raises:
        UserError: a stage or an index that is not there, or nothing chosen.
    """
    _require_whole("stages", stages)
    _require_whole("blocks", () if blocks is None else blocks)
    there = sorted({candidate.stage for candidate in candidates})
    chosen = []
    for stage in dict.fromkeys(stages):
        members = [candidate for candidate in candidates if candidate.stage == stage]
        if not members:
            raise UserError(f"`stages` must be among {', '.join(map(str, there))} for this network, found {stage}")
        count = len(members)
        for index in range(count) if blocks is None else blocks:
            if not -count <= index < count:
                raise UserError(f"`blocks` must be indices from 0 to {count - 1} in stage {stage}, found {index}")
        indices = range(count) if blocks is None else sorted({index % count for index in blocks})
        chosen += [members[index] for index in indices]
    if not chosen:
        raise UserError("`stages` and `blocks` must name at least one residual block, found none")
    return sorted(chosen, key=candidates.index)


def _require_whole(name: str, numbers: object) -> None:
    is_list = isinstance(numbers, Iterable) and not isinstance(numbers, str)
    if not is_list or not all(isinstance(number, Integral) for number in numbers):
        raise UserError(f"{name} must be whole numbers, such as (3, 4), found {numbers!r}")


_STAGE = re.compile(r"layer(\d+)\.\d+$")  # residual networks name their stages: c3 is layer2
_TIMM_MOBILE = "timm.models._efficientnet_blocks"
# The class of the blocks, and the child whose output is meant, empty for the block's own.
_BLOCKS = {
    "timm.models.regnet.Bottleneck": "",
    "timm.models.regnet.PreBottleneck": "",
    "torchvision.models.regnet.ResBottleneckBlock": "",
    "timm.models.convnext.ConvNeXtBlock": "",
    "torchvision.models.convnext.CNBlock": "",
    # A dense block runs over its children, so its transition's convolution, on all its maps, stands for it.
    "timm.models.densenet.DenseTransition": ".conv",
    "torchvision.models.densenet._Transition": ".conv",
    f"{_TIMM_MOBILE}.DepthwiseSeparableConv": "",
    f"{_TIMM_MOBILE}.EdgeResidual": "",
    f"{_TIMM_MOBILE}.InvertedResidual": "",
    f"{_TIMM_MOBILE}.UniversalInvertedResidual": "",
    f"{_TIMM_MOBILE}.MobileAttention": "",
    "torchvision.models.efficientnet.MBConv": "",
    "torchvision.models.efficientnet.FusedMBConv": "",
    "torchvision.models.mobilenetv2.InvertedResidual": "",
    "torchvision.models.mobilenetv3.InvertedResidual": "",
    "timm.models.swin_transformer.SwinTransformerBlock": "",
    "timm.models.swin_transformer_v2.SwinTransformerV2Block": "",
    "timm.models.swin_transformer_v2_cr.SwinTransformerV2CrBlock": "",
    "torchvision.models.swin_transformer.SwinTransformerBlock": "",
    "torchvision.models.video.resnet.BasicBlock": "",
    "torchvision.models.video.resnet.Bottleneck": "",
}


def family_candidates(run: DryRun, axes: Axes) -> list[Candidate]:
    """The blocks of known families, each with its stage: by its name, else by its stride (8 is c3, 32 is c5)."""
    side = next((tensor.shape[-1] for tensor in run.calls[0].inputs if tensor.dim() >= 4), None)
    if side is None:
        return []
    found: list[Candidate] = []
    for name in dict.fromkeys(call.name for call in run.calls if _child(call.module) is not None):
        call = run.of(name)[0]
        calls = run.of(name + (_child(call.module) or ""))
        if not calls or any(_child(holder.module) is not None for holder in call.ancestors()):
            continue
        stage = _stage(calls[0], axes, side)
        if stage is not None:
            found.append(Candidate(calls[0].name, stage, sum(other.stage == stage for other in found)))
    return found


def default_stages(candidates: list[Candidate]) -> tuple[int, ...]:
    """The last three, as the paper's c3 to c5 (arXiv 1904.11492, section 5.1)."""
    return tuple(sorted({candidate.stage for candidate in candidates})[-3:])


def _child(module: nn.Module) -> str | None:
    kinds = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__)
    return next((_BLOCKS[kind] for kind in kinds if kind in _BLOCKS), None)


def _stage(call: Call, axes: Axes, side: int) -> int | None:
    if call.tensor is None or call.tensor.dim() < 4:
        return None
    layer = _STAGE.search(call.name)
    if layer is not None:
        return int(layer[1]) + 1
    own = call.tensor.shape[-2 if axes.channels_last(call) else -1]
    return round(math.log2(side / own))


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


_CIFAR = ResidualFamily(
    "gcnet.models.backbones.cifar_resnet", "BasicBlockWithContext", 1, (1, 2, 3), 4, bottleneck=False
)
_SCENES = ResidualFamily(
    "gcnet.models.backbones.scenes_resnet", "SceneBottleneckWithContext", 1, (1,), 4, bottleneck=True
)
_IMAGENET: dict[str, Any] = {"first_stage": 2, "default_stages": (3, 4, 5), "default_ratio": None}
_FAMILIES = {
    "gcnet.models.backbones.cifar_resnet.BasicBlock": _CIFAR,
    "gcnet.models.backbones.scenes_resnet.SceneBottleneck": _SCENES,
} | {
    f"{host}.{name}": ResidualFamily(
        f"gcnet.insertion.residual_blocks.{library}", f"{name}WithContext", bottleneck=name == "Bottleneck", **_IMAGENET
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
        raise unknown("`position`", str(position), POSITIONS)
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
            f"insert before that, or give `at={name}` for a block on its output"
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
