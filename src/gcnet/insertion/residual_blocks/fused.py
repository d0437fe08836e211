"""Residual blocks whose context is computed from the input of their last 1x1 convolution (docs/fusion.md)."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import Proxy

from gcnet.framework.narrow_block import narrow_block
from gcnet.framework.observers import is_hooked, is_recorded
from gcnet.insertion.residual_blocks.position import Positioned

# Residual blocks whose output is a new map, by module and name, since timm is not imported for its classes alone.
_LIBRARIES = ("torchvision.models.resnet", "timm.models.resnet")
_RESIDUAL_BLOCKS = ("BasicBlock", "Bottleneck")
_PACKAGES = ("torch.", "torchvision.", "timm.", "gcnet.")  # their layers keep no map
_NEW_MAP = (nn.Conv2d, nn.BatchNorm2d)  # their output shares no memory with their input


class FusedBottleneck(Positioned):
    """`activation(shortcut + gate (W h + b) + shift)`, with gate and shift from `h` by a `NarrowBlock`.

    The shift is added to the narrower of what is there: for one image to the bias of the convolution, otherwise to the
    shortcut, in place if no other code reads it. So no operation of its own reads the wide map.
    """

    context: nn.Module
    conv1: nn.Module
    conv3: nn.Conv2d
    downsample: nn.Module | None

    def residual(
        self,
        h: Float[Tensor, "n k h w"],
        x: Float[Tensor, "n c_in h_in w_in"],
        activation: nn.Module,
        stage: "Stage | None",
    ) -> Float[Tensor, "n c h w"]:
        """Return the output of the residual block.

        Args:
            h: input of the last convolution.
            x: input of the residual block.
            activation: the last activation.
            stage: what the stage knows, if it calls.
        """
        gate, shift = self.context(h)
        convolution, downsample = self.conv3, self.downsample
        shortcut = x if downsample is None else downsample(x)
        if (_is_recorded(x) if stage is None else stage.is_recorded) or is_hooked(convolution):
            out = convolution(h) if gate is None else convolution(h) * gate
            return activation(out + (shortcut if shift is None else shortcut + _as_map(shift)))
        if gate is None and h.shape[0] == 1:
            bias = shift if shift.dim() == 1 else shift.view(-1)
            if convolution.bias is not None:
                bias = convolution.bias + bias
            return activation(F.conv2d(h, convolution.weight, bias).add_(shortcut))
        if shift is not None:
            shift = _as_map(shift)
            owned = self._owns_shortcut(None if stage is None else stage.source)
            shortcut = shortcut.add_(shift) if owned else shortcut + shift
        out = convolution(h)
        if gate is None:
            return activation(out.add_(shortcut))
        return activation(torch.addcmul(shortcut, out, gate.to(out.dtype), out=out))

    def _owns_shortcut(self, source: nn.Module | None) -> bool:
        """Whether no other code reads the shortcut, or could have kept it."""
        if self.downsample is None:
            # The input of the residual block, which its first convolution has read as well.
            return _makes_own_map(source) and not is_hooked(self) and _keeps_no_map(self.conv1)
        return _makes_own_map(self.downsample)


class Stage(NamedTuple):
    """What a stage tells a residual block within it.

    Attributes:
        is_recorded: whether gradients or programs need the operations as they are.
        source: the module whose output is the input of the residual block, if no other code reads it.
    """

    is_recorded: bool
    source: nn.Module | None


class FusedStage(nn.Sequential):
    """A stage of residual blocks, which tells fused ones what they would each have to find out.

    Hooks of a residual block see the map alone as its input.
    """

    def forward(self, input: Tensor) -> Tensor:
        x, source, is_recorded, is_proxy = input, None, _is_recorded(input), isinstance(input, Proxy)
        for block in self:
            takes_stage = isinstance(block, FusedBottleneck) and not is_proxy and not is_hooked(block)
            x = block(x, Stage(is_recorded, source)) if takes_stage else block(x)
            source = block
        return x


def _as_map(shift: Tensor) -> Float[Tensor, "*n c h w"]:
    return shift[:, None, None] if shift.dim() == 1 else shift


def _is_recorded(x: Tensor) -> bool:
    """Whether gradients or programs need the operations as they are, or the batch size may change."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling() or isinstance(x, Proxy) or is_recorded()


def _makes_own_map(module: nn.Module | None) -> bool:
    """Whether a downsampling layer or a residual block returns a new map, which no hook or module could have kept."""
    if isinstance(module, nn.Sequential):
        layers = [layer for layer in module if type(layer) is not nn.Identity]
        is_new = bool(layers) and type(layers[-1]) in _NEW_MAP
    else:
        kind = type(module)
        is_library = kind.__module__ in _LIBRARIES and kind.__name__ in _RESIDUAL_BLOCKS
        is_new = is_library or isinstance(module, Positioned)
    return is_new and module is not None and _keeps_no_map(module)


def _keeps_no_map(module: nn.Module) -> bool:
    """Whether all modules within `module` are of PyTorch and the libraries, without hooks."""
    return not any(is_hooked(part) or not type(part).__module__.startswith(_PACKAGES) for part in module.modules())


def fuse_bottleneck(module: Any) -> None:
    """Make a residual block compute its context before its last convolution, in place.

    Args:
        module: residual block with a `fused_class`, with folded batch norms.
    """
    convolution: nn.Conv2d = module.conv3
    weight = convolution.weight.flatten(1)
    bias = weight.new_zeros(len(weight)) if convolution.bias is None else convolution.bias
    module.context = narrow_block(module.context, weight, bias).eval()
    if module.context.adds_bias:
        convolution.bias = None
    module.__class__ = module.fused_class()
