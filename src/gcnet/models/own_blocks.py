"""Attention blocks that networks of timm and torchvision have of their own."""

from torch import nn

_OWN_BLOCKS = (
    *("GlobalContext", "SEModule", "SqueezeExcite", "SqueezeExciteCl", "EffectiveSEModule", "SqueezeExcitation"),
    *("EcaModule", "CecaModule", "CbamModule", "LightCbamModule", "GatherExcite", "NonLocalAttn", "BatNonLocalAttn"),
)


def remove_own_blocks(model: nn.Module) -> int:
    """Replace the attention blocks of timm and torchvision in `model` by `nn.Identity`, in place.

    Returns:
        Their number.
    """
    own_blocks = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child).__name__ in _OWN_BLOCKS and type(child).__module__.startswith(("timm.", "torchvision."))
    ]
    for parent, name in own_blocks:
        setattr(parent, name, nn.Identity())
    return len(own_blocks)
