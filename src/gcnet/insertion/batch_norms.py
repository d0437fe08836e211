"""Folding of batch norms with fixed statistics into the convolutions before them."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from gcnet.framework.fixed_batch_norm import FixedBatchNorm2d
from gcnet.framework.observers import has_own_hooks
from gcnet.insertion.forward_methods import has_method_of

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Modules whose methods call these pairs of children one after the other, by module and name of the class.
_PAIRS = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))
_METHODS = ("forward", "_forward_impl", "forward_features")
_OWNERS = {
    "torchvision.models.resnet": ("ResNet", "BasicBlock", "Bottleneck"),
    "timm.models.resnet": ("ResNet", "BasicBlock", "Bottleneck"),
    "gcnet.models.backbones.cifar_resnet": ("CifarResNet",),
}
# Norms whose forward method does nothing but normalize; a subclass with its own may also activate.
_NORMS = (_BatchNorm, nn.SyncBatchNorm, FixedBatchNorm2d, FrozenBatchNorm2d)


def fold_batch_norms(model: nn.Module) -> None:
    """Fold every batch norm that follows a convolution into its weights, in place; an `nn.Identity` takes its place.

    Pairs are adjacent children of an `nn.Sequential` or of the body of a torchvision detector, and the convolutions of
    torchvision's and timm's ResNets. Shared, hooked, pruned and parametrized layers stay, and so do those of classes
    with a forward method of their own.

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
    return type(module) in classes and not has_own_hooks(module)


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    for module in model.modules():
        if isinstance(module, nn.Sequential) and has_method_of(module, (nn.Sequential,)):
            yield from ((module, *pair) for pair in pairwise(module._modules))
        elif type(module) is IntermediateLayerGetter and "forward" not in vars(module):
            pairs = pairwise(module._modules)
            yield from ((module, first, second) for first, second in pairs if first not in module.return_layers)
        elif _calls_pairs(module):
            yield from ((module, *pair) for pair in _PAIRS if all(name in module._modules for name in pair))


def _calls_pairs(module: nn.Module) -> bool:
    """Whether a module is one of `_OWNERS`, also with a context block or of a subclass, with the methods of that."""
    kinds = type(module).__mro__
    if not any(_is_owner(kind) for kind in kinds):
        return False
    known = tuple(kind for kind in kinds if _is_owner(kind) or kind.__module__.startswith("gcnet."))
    return all(has_method_of(module, known, method) for method in _METHODS if hasattr(module, method))


def _is_owner(kind: type) -> bool:
    return kind.__name__ in _OWNERS.get(kind.__module__, ())


def _has_statistics(norm: nn.Module) -> bool:
    if not isinstance(norm, _NORMS) or not has_method_of(norm, _NORMS):
        return False
    return is_plain(norm, type(norm)) and norm.running_mean is not None


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
