"""Known network families: their residual or token blocks by stage, and context blocks inside residual blocks."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from numbers import Integral
from typing import Any

from torch import nn

from gcnet.errors import UserError, unknown
from gcnet.insertion.dry_run import DryRun, ModuleCall
from gcnet.insertion.forward_methods import is_replaced
from gcnet.insertion.layout import Axes
from gcnet.insertion.residual_blocks.position import POSITIONS, Positioned

_WORD = re.compile(r"c(\d+)")


@dataclass(frozen=True)
class Candidate:
    """A module that can take a context block.

    Attributes:
        name: of the module.
        stage: in the paper's numbers, 4 for c4.
        index: within the stage, from 0.
    """

    name: str
    stage: int
    index: int


def stage_of(word: object) -> int | None:
    """Return 4 for the `word` "c4"; None for anything else than a stage."""
    match = _WORD.fullmatch(word) if isinstance(word, str) else None
    return int(match[1]) if match else None


def choose(
    candidates: Sequence[Candidate],
    stages: Sequence[int],
    blocks: Sequence[int] | None,
) -> list[Candidate]:
    """Select candidates by stage and index.

    Args:
        candidates: all candidates, in network order.
        stages: stages to select.
        blocks: indices within each stage, negative from its end; None for all.

    Returns:
        The selected candidates, in network order.

    Raises:
        UserError: a stage or an index that does not exist, or an empty selection.
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
        raise UserError("`stages` and `blocks` must select at least one residual block, found none")
    return sorted(chosen, key=candidates.index)


def _require_whole(name: str, numbers: object) -> None:
    is_list = isinstance(numbers, Iterable) and not isinstance(numbers, str)
    if not is_list or not all(isinstance(number, Integral) for number in numbers):
        raise UserError(f"{name} must be whole numbers, such as (3, 4), found {numbers!r}")


_STAGE = re.compile(r"layer(\d+)\.\d+$")  # residual networks name their stages: c3 is layer2
_TIMM_MOBILE = "timm.models._efficientnet_blocks"
# Class of the blocks, and the child with the context block on its output (empty: the block itself).
_BLOCKS = {
    "timm.models.regnet.Bottleneck": "",
    "timm.models.regnet.PreBottleneck": "",
    "torchvision.models.regnet.ResBottleneckBlock": "",
    "timm.models.convnext.ConvNeXtBlock": "",
    "torchvision.models.convnext.CNBlock": "",
    # A dense block iterates over its children, so the block goes to the convolution of its transition.
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
    """Find the blocks of known families, with their stages by name, else by stride (8 is c3, 32 is c5).

    Args:
        run: a dry run.
        axes: layouts of its outputs.

    Returns:
        The candidates, in network order.
    """
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
    """Return the last three stages of `candidates`, as the paper's c3 to c5 (arXiv 1904.11492, section 5.1)."""
    return tuple(sorted({candidate.stage for candidate in candidates})[-3:])


def _child(module: nn.Module) -> str | None:
    kinds = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__)
    return next((_BLOCKS[kind] for kind in kinds if kind in _BLOCKS), None)


def _stage(call: ModuleCall, axes: Axes, side: int) -> int | None:
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
    """Residual blocks of one kind.

    Attributes:
        home: module of the class with a context block.
        name: name of that class.
        first_stage: stage of `layer1` in the paper's numbers.
        default_stages: stages that take blocks by default.
        default_ratio: ratio by default; None for the block's own.
        bottleneck: whether the blocks are bottlenecks.
    """

    home: str
    name: str
    first_stage: int
    default_stages: tuple[int, ...]
    default_ratio: float | None
    bottleneck: bool


_CIFAR = ResidualFamily(
    "gcnet.models.backbones.cifar_resnet", "CifarBasicBlockWithContext", 1, (1, 2, 3), 4, bottleneck=False
)
_SCENES = ResidualFamily(
    "gcnet.models.backbones.scenes_resnet", "SceneBottleneckWithContext", 1, (1,), 4, bottleneck=True
)
_IMAGENET: dict[str, Any] = {"first_stage": 2, "default_stages": (3, 4, 5), "default_ratio": None}
_FAMILIES = {
    "gcnet.models.backbones.cifar_resnet.BasicBlock": _CIFAR,
    "gcnet.models.backbones.scenes_resnet.SceneBottleneck": _SCENES,
} | {
    f"{source}.{name}": ResidualFamily(
        f"gcnet.insertion.residual_blocks.{library}",
        f"{prefix}{name}WithContext",
        bottleneck=name == "Bottleneck",
        **_IMAGENET,
    )
    for library, source, prefix in (
        ("torchvision", "torchvision.models.resnet", ""),
        ("timm", "timm.models.resnet", "Timm"),
    )
    for name in ("BasicBlock", "Bottleneck")
}


def residual_family(module: nn.Module) -> ResidualFamily | None:
    """Return the family of the residual block `module`, or None."""
    library_class = _library_class(module)
    return None if library_class is None else _FAMILIES[_path(library_class)]


def residual_candidates(model: nn.Module) -> list[Candidate]:
    """Return the residual blocks of known families in `model`, with stages in the paper's numbers."""
    found = []
    for name, module in model.named_modules():
        family = residual_family(module)
        layer = _LAYER.search(name)
        if family is not None and layer is not None:
            found.append(Candidate(name, int(layer[1]) - 1 + family.first_stage, int(layer[2])))
    return found


def check_position(name: str, module: nn.Module, position: object) -> None:
    """Check that a residual block has a position, and the forward of its library.

    Args:
        name: of the module, for errors.
        module: the module.
        position: the position.

    Raises:
        UserError: an unknown position, not a residual block of a known family, or a replaced forward.
    """
    if position not in POSITIONS:
        raise unknown("`position`", str(position), POSITIONS)
    family = residual_family(module)
    if family is None:
        raise UserError(
            f"`position` needs a residual block of a ResNet or ResNeXt, but {name} is a {type(module).__name__}: omit "
            "`position` for a block on its output"
        )
    if position == "after_conv2" and not family.bottleneck:
        raise UserError(f"position after_conv2 is for bottlenecks, but {name} is a basic block")
    replaced = _replaced_forward(module)
    if replaced:
        raise UserError(
            f"a block inside a residual block needs the original forward, but {replaced} was replaced: "
            f"insert before that, or use `at={name}` for a block on its output"
        )


def position_child(position: str) -> str:
    """Return the child of a residual block whose output has the channels of `position`; empty for the block's own
    output.
    """
    return "bn2" if position == "after_conv2" else ""


def into_residual(module: nn.Module, context: nn.Module, position: Any) -> None:
    """Change the class of a residual block to the one whose forward runs a context block.

    Args:
        module: a residual block that passed `check_position`.
        context: the context block.
        position: where the forward runs it.
    """
    family = residual_family(module)
    assert family is not None
    module.__class__ = getattr(import_module(family.home), family.name)
    module.context = context
    module.context_position = position


def out_of_residual(module: nn.Module) -> None:
    """Undo `into_residual` on `module`."""
    library_class = _library_class(module)
    assert library_class is not None
    module._modules.pop("context", None)
    vars(module).pop("context_position", None)
    module.__class__ = library_class


def _replaced_forward(module: nn.Module) -> str | None:
    """The replaced forward, of the instance or its class; None if it is the original."""
    kind: Any = _library_class(module)
    assert kind is not None
    if "forward" in vars(module):
        return f"the forward of this {kind.__name__}"
    return f"the forward of {kind.__name__}" if is_replaced(kind) else None


def _library_class(module: nn.Module) -> type | None:
    # A subclass may have its own forward, so only the exact class counts, or the one with a context block.
    kinds = type(module).__mro__ if isinstance(module, Positioned) else (type(module),)
    return next((kind for kind in kinds if _path(kind) in _FAMILIES), None)


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
