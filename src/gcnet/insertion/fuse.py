"""`fuse`: a copy of a network for inference, with folded batch norms and contexts before the widest maps."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from gcnet.framework.narrow_block import why_not_narrow
from gcnet.insertion.attach import check_network, installed_modules, refuse_fused
from gcnet.insertion.batch_norms import fold_batch_norms, is_plain
from gcnet.insertion.model_copies import detached_copy
from gcnet.insertion.residual_blocks.expansion import Expanding, is_pointwise
from gcnet.insertion.residual_blocks.fused import FusedBottleneck, FusedStage, fuse_bottleneck
from gcnet.insertion.residual_blocks.position import Positioned


def fuse(model: nn.Module) -> nn.Module:
    """Return a copy of a network for inference that is faster and gives the same outputs, up to rounding.

    Batch norms are folded into their convolutions. Blocks after the last norm of a bottleneck compute their context
    before its last 1x1 convolution, on a map with fewer channels, where that is exact. The other blocks stay as they
    are; `inserted(fused)` lists them with the reason.

    Args:
        model: the network; it does not change.

    Returns:
        The copy, in eval mode, with parameters that need no gradient. It can be exported, copied and compiled, but
        neither trained nor saved.

    Raises:
        UserError: `model` is fused already.

    Reference:
        docs/fusion.md; equation 5 of arXiv 1904.11492 for the block.

    Example:
        >>> import torch
        >>> from torchvision.models import resnet50
        >>> model = resnet50().eval()
        >>> gcnet.insert(model, "gc")  # doctest: +ELLIPSIS
        Insertion(...)
        >>> images = torch.rand(1, 3, 64, 64)
        >>> with torch.no_grad():
        ...     torch.allclose(gcnet.fuse(model)(images), model(images), atol=1e-4)
        True
    """
    check_network(model)
    refuse_fused(model, "fused again")
    fused = detached_copy(model)
    fold_batch_norms(fused)
    for _, module in list(installed_modules(fused)):
        obstacle = fusion_obstacle(module)
        if obstacle is None:
            fuse_bottleneck(module)
        vars(module)["fusion_obstacle"] = obstacle or ""
    for stage in list(fused.modules()):
        if type(stage) is nn.Sequential and any(isinstance(block, FusedBottleneck) for block in stage):
            stage.__class__ = FusedStage
    for module in fused.modules():
        vars(module)["is_fused"] = True  # of all modules, since a part may be used alone
    return fused


def fusion_obstacle(module: nn.Module) -> str | None:
    """Return why the block of a module is not computed before a convolution, or None.

    Args:
        module: a module of a network with folded batch norms, with an inserted block.
    """
    if not isinstance(module, Positioned):
        return "it is on the output of a module, not in a residual block"
    if module.context_position != "after_norm":
        return f"its position is {module.context_position}, not after_norm"
    if not isinstance(module, Expanding):
        return f"a {type(module).__mro__[-3].__name__} has no 1x1 convolution before the block"
    parts: Mapping[str, Any] = MappingProxyType(module._modules)
    convolution = parts["conv3"]
    if not is_plain(convolution, nn.Conv2d) or not is_pointwise(convolution):
        return "its last convolution is not a plain 1x1 convolution"
    if not is_plain(parts["bn3"], nn.Identity):
        return f"its last norm, {type(parts['bn3']).__name__}, could not be folded"
    drop_path = parts.get("drop_path")
    if drop_path is not None and not (
        type(drop_path).__module__.startswith("timm.") and is_plain(drop_path, type(drop_path))
    ):
        return f"the residual block has a {type(drop_path).__name__} after the block"
    if parts.get("se") is not None:
        return "the residual block has channel attention of its own before the block"
    if any(not is_plain(part, type(part)) for part in parts["context"].modules()):
        return "a part of the block has a hook"
    return why_not_narrow(parts["context"])
