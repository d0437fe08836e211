"""Folding of batch norms with fixed statistics into the convolutions before them."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Modules whose forward calls these pairs of children one after the other, by class name.
_PAIRS = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))
_OWNERS = {
    "torchvision.models.resnet": ("ResNet", "BasicBlock", "Bottleneck"),
    "timm.models.resnet": ("ResNet", "BasicBlock", "Bottleneck"),
    "gcnet.models.backbones.cifar_resnet": ("CifarResNet",),
}


def fold_batch_norms(model: nn.Module) -> None:
    """Fold every batch norm that follows a convolution into its weights, in place; an `nn.Identity` takes its place.

    Pairs are adjacent children of an `nn.Sequential` or of the body of a torchvision detector, and the convolutions of
    torchvision's and timm's ResNets. Shared, hooked, pruned and parametrized layers stay.

    Args:
        model: the network, in eval mode.
    """
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for owner, conv_name, norm_name in _pairs(model):
        convolution, norm = getattr(owner, conv_name), getattr(owner, norm_name)
        shared = uses[id(convolution)] > 1 or uses[id(norm)] > 1
        if not shared and is_plain(convolution, *_CONVOLUTIONS) and _has_statistics(norm):
            _fold(convolution, norm)
            setattr(owner, norm_name, nn.Identity())


def is_plain(module: nn.Module, *classes: type[nn.Module]) -> bool:
    """Whether `module` is exactly of one of the classes, without hooks, pruning or a replaced forward method.

    Args:
        module: the module.
        classes: the classes.
    """
    observed = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return type(module) in classes and not observed


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    for module in model.modules():
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            yield from ((module, *pair) for pair in pairwise(module._modules))
        elif type(module) is IntermediateLayerGetter:
            pairs = pairwise(module._modules)
            yield from ((module, first, second) for first, second in pairs if first not in module.return_layers)
        elif any(base.__name__ in _OWNERS.get(base.__module__, ()) for base in type(module).__mro__):
            yield from ((module, *pair) for pair in _PAIRS if all(name in module._modules for name in pair))


def _has_statistics(norm: nn.Module) -> bool:
    if type(norm) is FrozenBatchNorm2d:
        return True
    is_norm = isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm)
    return is_norm and _normalizes_only(norm) and is_plain(norm, type(norm)) and norm.running_mean is not None


def _normalizes_only(norm: nn.Module) -> bool:
    """Whether a subclass of a batch norm computes nothing else in eval mode: timm's also activate."""
    return not isinstance(getattr(norm, "act", None), nn.Module) and "Act" not in type(norm).__name__


@torch.no_grad()
def _fold(convolution: Any, norm: Any) -> None:
    """`gamma (W x + b - mean) / sqrt(var + eps) + beta` as one convolution, computed in float64."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if convolution.bias is not None:
        shift = shift + convolution.bias.double() * scale
    weight: Tensor = convolution.weight
    folded = (weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype)
    convolution.weight = nn.Parameter(folded, requires_grad=False)
    convolution.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
