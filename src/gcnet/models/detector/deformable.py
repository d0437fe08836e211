"""Deformable convolution (arXiv 1703.06211) in the 3x3 convolutions of a residual network's later stages."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from gcnet.errors import UserError


class DeformableConv2d(nn.Conv2d):
    """A convolution whose samples move: `y(p) = sum_k w_k x(p + p_k + dp_k(p))`, dp a convolution of x (eq. 2).

    Its own keys stay `weight` and `bias`; the offsets' are `conv_offset.*`, and zero at the start, where it computes
    what the convolution it was made of did. One group of offsets serves all channels.

    Args:
        like: the convolution whose shape, stride, padding, dilation, groups and weights it takes over.
    """

    def __init__(self, like: nn.Conv2d) -> None:
        same: Any = {name: getattr(like, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        same |= {"device": like.weight.device, "dtype": like.weight.dtype}
        super().__init__(like.in_channels, like.out_channels, groups=like.groups, bias=like.bias is not None, **same)
        self.load_state_dict(like.state_dict())
        self.conv_offset = nn.Conv2d(like.in_channels, 2 * self.weight[0, 0].numel(), **same)
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c_out h_out w_out"]:
        offsets = self.conv_offset(input)  # (N, 2 K, H', W'): down and across of each of K samples
        geometry: Any = (self.stride, self.padding, self.dilation)
        # torchvision has no kernel for bfloat16, nor casts under autocast.
        precise = torch.promote_types(offsets.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(precise)
        sampled = deform_conv2d(input.to(precise), offsets.to(precise), self.weight.to(precise), bias, *geometry)
        return sampled.to(offsets.dtype)


@torch.no_grad()
def make_deformable(model: nn.Module, stages: tuple[str, ...] = ("layer2", "layer3", "layer4")) -> int:
    """Replace `conv2` in every bottleneck of these stages (by default c3 to c5), in place; returns how many.

    Raises:
        UserError: the network has no bottleneck there.
    """
    count = 0
    for stage in stages:
        blocks: Any = getattr(model, stage, nn.Sequential())
        for block in blocks:
            if hasattr(block, "conv3"):
                block.conv2 = DeformableConv2d(block.conv2)
                count += 1
    if not count:
        raise UserError(f"bottlenecks of {', '.join(stages)} become deformable, and {type(model).__name__} has none")
    return count
