"""Putting context blocks into a residual network that already exists."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from typing import Any

from torch import nn

from gcnet.blocks import Builder, block_options, build_block, check_options
from gcnet.errors import UserError, unknown
from gcnet.models.residual.position import POSITIONS, Positioned

_LAYER = re.compile(r"(?:^|\.)layer(\d+)\.(\d+)$")


@dataclass(frozen=True)
class _Family:
    """Residual blocks of one kind: the class that runs a context, and how the paper counts their stages."""

    home: str
    name: str
    first_stage: int
    default_stages: tuple[int, ...]
    default_ratio: float | None
    bottleneck: bool


_CIFAR = _Family("gcnet.models.residual.cifar", "BasicBlockWithContext", 1, (1, 2, 3), 4, bottleneck=False)
_SCENES = _Family("gcnet.models.residual.scenes", "SceneBottleneckWithContext", 1, (1,), 4, bottleneck=True)
_IMAGENET: dict[str, Any] = {"first_stage": 2, "default_stages": (3, 4, 5), "default_ratio": None}
_FAMILIES = {
    "gcnet.models.cifar_resnet.BasicBlock": _CIFAR,
    "gcnet.models.scenes_resnet.SceneBottleneck": _SCENES,
} | {
    f"{host}.{name}": _Family(
        f"gcnet.models.residual.{library}", f"{name}WithContext", bottleneck=name == "Bottleneck", **_IMAGENET
    )
    for library, host in (("torchvision", "torchvision.models.resnet"), ("timm", "timm.models.resnet"))
    for name in ("BasicBlock", "Bottleneck")
}


@dataclass(frozen=True)
class Place:
    """One inserted block: the residual block that runs it, the channels it sees, the parameters it added."""

    name: str
    channels: int
    parameters: int


@dataclass(frozen=True)
class Insertion:
    """What one call of `insert` put where; `str()` says it in one line."""

    block: str
    position: str
    places: tuple[Place, ...]

    @property
    def parameters(self) -> int:
        """Parameters added in all."""
        return sum(place.parameters for place in self.places)

    def __str__(self) -> str:
        stages = []
        for (stage, channels), places in groupby(self.places, lambda place: (_stage_name(place.name), place.channels)):
            indices = ", ".join(place.name.rpartition(".")[2] for place in places)
            stages.append(f"{stage} blocks {indices} ({channels} channels)")
        return (
            f"{self.block} {self.position} in {len(self.places)} residual blocks: {'; '.join(stages)}; "
            f"{self.parameters:,} parameters added"
        )


@dataclass(frozen=True)
class _Candidate:
    name: str
    module: Any  # one of the residual blocks in _FAMILIES, which all have conv1, conv2 and so on
    family: _Family
    stage: int
    index: int


def insert(
    model: nn.Module,
    block: str | Builder,
    *,
    ratio: float | None = None,
    stages: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
    position: str = "after_norm",
    **options: Any,
) -> Insertion:
    """Put a context block into residual blocks of `model`, in place; the host's own weight names stay.

    For the ResNets and ResNeXts of torchvision and timm, the CIFAR ResNets and the scenes network. The new blocks are
    found under `<residual block>.context`, on the device and in the dtype of their host, and run in its forward.

    Args:
        model: the host network.
        block: a name of `gcnet.list_blocks()`, or a builder of your own, `channels -> module`.
        ratio: the paper's r; None for the default: 16, in our small networks 4.
        stages: the paper's numbers, 2 to 5 for c2 to c5 (c4 is `layer3`), in CIFAR ResNets 1 to 3; by default 3 to 5,
            in CIFAR ResNets all.
        blocks: indices within each stage, negative from its end; by default all.
        position: "after_norm" (the paper's after1x1: after the last norm, before the addition), "after_add" (the
            residual block's output) or "after_conv2" (after the second convolution's norm and activation,
            bottlenecks only).
        options: further options of the block.

    Returns:
        What went where.

    Raises:
        UserError: an unknown name, option, stage, index or position, or a network without residual blocks. The model
            is then unchanged.
    """
    check_options(block, options)
    if position not in POSITIONS:
        raise unknown("position", position, POSITIONS)
    chosen = _choose(_candidates(model), stages, blocks)
    if ratio is None and "ratio" in block_options(block):
        ratio = chosen[0].family.default_ratio
    built = [_build(candidate, block, position, ratio, options) for candidate in chosen]
    places = tuple(_install(candidate, context, position) for candidate, context in zip(chosen, built, strict=True))
    name = block if isinstance(block, str) else f"{block.__module__}.{getattr(block, '__qualname__', repr(block))}"
    record = {
        "block": name,
        "custom": not isinstance(block, str),
        "ratio": ratio,
        "stages": sorted({candidate.stage for candidate in chosen}),
        "blocks": None if blocks is None else list(blocks),
        "position": position,
        "options": options,
    }
    vars(model)["context_insertions"] = [*insertion_records(model), record]
    return Insertion(name, position, places)


def insertion_records(model: nn.Module) -> list[dict[str, Any]]:
    """What `insert` was told, call by call, in values that JSON can hold (for files that rebuild the network)."""
    return list(getattr(model, "context_insertions", []))


def context_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters of all inserted blocks, for training them alone or at a learning rate of their own."""
    return [
        (f"{name}.context.{parameter_name}" if name else f"context.{parameter_name}", parameter)
        for name, module in model.named_modules()
        if isinstance(module, Positioned)
        for parameter_name, parameter in module.context.named_parameters()
    ]


def _candidates(model: nn.Module) -> list[_Candidate]:
    found = []
    for name, module in model.named_modules():
        family = _family(module)
        layer = _LAYER.search(name)
        if family is not None and layer is not None:
            stage = int(layer[1]) - 1 + family.first_stage
            found.append(_Candidate(name, module, family, stage, int(layer[2])))
    if not found:
        raise UserError(
            "insert knows the residual networks (ResNet, ResNeXt) of torchvision and timm and the CIFAR ResNets; "
            f"found no residual block of theirs in {type(model).__name__}"
        )
    return found


def _family(module: nn.Module) -> _Family | None:
    # A subclass may have a forward of its own, so only the class itself counts, or the one that a context was put into.
    kinds = type(module).__mro__ if isinstance(module, Positioned) else (type(module),)
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    return next((_FAMILIES[name] for name in names if name in _FAMILIES), None)


def _choose(
    candidates: list[_Candidate], stages: Sequence[int] | None, blocks: Sequence[int] | None
) -> list[_Candidate]:
    there = sorted({candidate.stage for candidate in candidates})
    chosen = []
    for stage in dict.fromkeys(candidates[0].family.default_stages if stages is None else stages):
        members = [candidate for candidate in candidates if candidate.stage == stage]
        if not members:
            raise UserError(f"stages must be among {', '.join(map(str, there))} for this network, found {stage}")
        count = len(members)
        for index in range(count) if blocks is None else blocks:
            if not -count <= index < count:
                raise UserError(f"stage {stage} has {count} residual blocks (0 to {count - 1}), found index {index}")
        indices = range(count) if blocks is None else sorted({index % count for index in blocks})
        chosen += [members[index] for index in indices]
    if not chosen:
        raise UserError("stages and blocks must name at least one residual block, found none")
    return sorted(chosen, key=candidates.index)


def _build(
    candidate: _Candidate, block: str | Builder, position: str, ratio: float | None, options: dict[str, Any]
) -> nn.Module:
    if isinstance(candidate.module, Positioned):
        raise UserError(f"a residual block takes one context block, and {candidate.name} has one already")
    if position == "after_conv2" and not candidate.family.bottleneck:
        raise UserError(f"position after_conv2 is for bottlenecks, and {candidate.name} is a basic block")
    weight = candidate.module.conv2.weight
    context = build_block(block, channels=_channels(candidate, position), ratio=ratio, dims=2, **options)
    return context.to(device=weight.device, dtype=weight.dtype).train(candidate.module.training)


def _channels(candidate: _Candidate, position: str) -> int:
    last = "conv3" if candidate.family.bottleneck and position != "after_conv2" else "conv2"
    return getattr(candidate.module, last).out_channels


def _install(candidate: _Candidate, context: nn.Module, position: str) -> Place:
    family = candidate.family
    candidate.module.__class__ = getattr(import_module(family.home), family.name)
    candidate.module.context = context
    candidate.module.context_position = position
    added = sum(parameter.numel() for parameter in context.parameters())
    return Place(candidate.name, _channels(candidate, position), added)


def _stage_name(name: str) -> str:
    return name.rpartition(".")[0]
