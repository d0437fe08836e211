"""Families that are built of blocks in stages: the blocks' classes, and the stage of each."""

import math
import re

from torch import nn

from gcnet.models.insertion.axes import Axes
from gcnet.models.insertion.observe import Call, DryRun
from gcnet.models.insertion.stages import Candidate

_LAYER = re.compile(r"layer(\d+)\.\d+$")  # residual networks name their stages: c3 is layer2
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
    layer = _LAYER.search(call.name)
    if layer is not None:
        return int(layer[1]) + 1
    own = call.tensor.shape[-2 if axes.channels_last(call) else -1]
    return round(math.log2(side / own))
