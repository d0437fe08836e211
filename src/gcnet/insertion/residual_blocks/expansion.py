"""The last convolution of a bottleneck in training, with a context that is computed before it (docs/fusion.md)."""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import Proxy
from torchvision.ops import FrozenBatchNorm2d

from gcnet.framework.block import ContextBlock
from gcnet.framework.fixed_batch_norm import FixedBatchNorm2d
from gcnet.framework.observers import is_hooked, is_recorded
from gcnet.framework.term import adds_one_term, term_of_block
from gcnet.insertion.residual_blocks.position import Positioned
from gcnet.ops.batch_norm import NormStatistics, batch_statistics, fixed_statistics, normalized_plus
from gcnet.ops.norm_add_relu import can_norm_add_relu, norm_add_relu
from gcnet.ops.synchronized_batch_norm import group_of_norm, synchronized_statistics

_FIXED = (FrozenBatchNorm2d, FixedBatchNorm2d)


class Expanding(Positioned):
    """A bottleneck whose last convolution is `conv3`, with the norm `bn3`."""

    conv3: nn.Conv2d
    bn3: nn.Module

    def expand(self, h: Float[Tensor, "n k h w"]) -> Float[Tensor, "n c h w"]:
        """Return `bn3(conv3(h))` with the context of a block after the norm.

        In training on a CPU or compiled, the term of a block that only adds is computed from `h` and added by the norm
        itself, so that the block reads no map with the channels of the output.

        Args:
            h: input of the last convolution.
        """
        return self._norm(h, self.conv3(h), self._takes_early_term(h))

    def expand_and_join(
        self, h: Float[Tensor, "n k h w"], identity: Float[Tensor, "n c h w"], activation: nn.Module
    ) -> Float[Tensor, "n c h w"]:
        """Return `activation(expand(h) + identity)`; in training on a GPU, one kernel does all after the convolution.

        Args:
            h: input of the last convolution.
            identity: output of the shortcut.
            activation: the last activation.
        """
        z, norm = self.conv3(h), cast(nn.BatchNorm2d, self.bn3)
        is_early = self._takes_early_term(h)
        eager_relu = type(activation) is nn.ReLU and not torch.compiler.is_compiling()
        if is_early and eager_relu and can_norm_add_relu(z, identity, norm.weight):
            return norm_add_relu(z, *self._early_term(h, z), identity)
        return activation(self.join(self._norm(h, z, is_early), identity))

    def _norm(self, h: Tensor, z: Tensor, is_early: bool) -> Tensor:
        """The norm of `z` with the context of a block after it."""
        if is_early and (torch.compiler.is_compiling() or h.device.type == "cpu"):
            return normalized_plus(z, *self._early_term(h, z))
        return self.at("after_norm", self.bn3(z))

    def _early_term(self, h: Tensor, z: Tensor) -> tuple[NormStatistics, Tensor, Tensor]:
        """Statistics and bias of the norm, and the term of the block."""
        norm: Any = self.bn3
        assert isinstance(self.context, ContextBlock)
        self.context.check_shape(z)
        statistics, bias = _statistics(z, norm)
        return statistics, bias, term_of_block(self.context, h, self.conv3.weight.flatten(1), statistics, bias)

    def _takes_early_term(self, h: Tensor | Proxy) -> bool:
        """Whether the context can be computed from `h`."""
        if not self.training or self.context_position != "after_norm" or not adds_one_term(self.context):
            return False
        convolution = self.conv3
        if isinstance(h, Proxy) or not h.numel() or type(convolution) is not nn.Conv2d or convolution.bias is not None:
            return False
        if not is_pointwise(convolution) or not _is_batch_norm(self.bn3):
            return False
        if is_recorded() or torch.compiler.is_exporting() or torch.autograd.forward_ad._current_level >= 0:
            return False
        return not any(is_hooked(part) for child in self.children() for part in child.modules())


def is_pointwise(convolution: nn.Conv2d) -> bool:
    """Whether a convolution maps each position of its input by one matrix.

    Args:
        convolution: the convolution.
    """
    plain = convolution.kernel_size == convolution.stride == (1, 1) and convolution.groups == 1
    return plain and convolution.padding in ((0, 0), "valid", "same")


def _is_batch_norm(norm: nn.Module) -> bool:
    if type(norm) in _FIXED:
        return True
    # torch.compile does not trace the exchange between processes.
    synchronized = type(norm) is nn.SyncBatchNorm and not torch.compiler.is_compiling()
    if type(norm) is not nn.BatchNorm2d and not synchronized:
        return False
    if norm.weight is None or norm.bias is None or norm.running_mean is None:
        return False
    return not norm.training or (norm.track_running_stats and norm.momentum is not None)


def _statistics(z: Tensor, norm: Any) -> tuple[NormStatistics, Tensor]:
    """The statistics by which `norm` normalizes `z`, with its update of the running ones, and its bias."""
    running = norm.running_mean, norm.running_var
    if not norm.training or type(norm) in _FIXED:
        return fixed_statistics(norm.weight, running, eps=norm.eps), norm.bias
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    options = {"momentum": norm.momentum, "eps": norm.eps}
    if (group := group_of_norm(norm)) is not None:
        return synchronized_statistics(z, (norm.weight, norm.bias), running, group=group, **options)
    return batch_statistics(z, norm.weight, running, **options), norm.bias
