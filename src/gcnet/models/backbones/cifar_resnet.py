"""ResNets for 32-pixel images (arXiv 1512.03385, section 4.2), with parameter-free shortcuts (option A)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gcnet.insertion.residual_blocks.position import Positioned


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which subsamples and zero-pads channels if the shape changes.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: of the first convolution and the shortcut.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.added_channels = channels - in_channels

    def shortcut(self, x: Float[Tensor, "n c_in h w"]) -> Float[Tensor, "n c_out h_out w_out"]:
        """Return every `stride`-th pixel of `x`, with zero channels on both sides."""
        if self.stride == 1 and self.added_channels == 0:
            return x
        before = self.added_channels // 2
        strided = F.avg_pool2d(x, 1, self.stride)  # not a slice, whose size torch.export cannot equate with conv1's
        return F.pad(strided, (0, 0, 0, 0, before, self.added_channels - before))

    def forward(self, x: Float[Tensor, "n c_in h w"]) -> Float[Tensor, "n c_out h_out w_out"]:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels with (depth - 2) / 6 basic blocks each, average pooling, linear layer.

    Images are (N, 3, H, W) float, logits (N, num_classes).

    Args:
        depth: 20, 32, 44, 56 or 110 in the paper.
        num_classes: number of classes.
    """

    def __init__(self, depth: int, num_classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()  # a module, so that the children in order are the network up to any stage
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(channels, channels) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(in_channels, channels, stride), *rest)


class CifarBasicBlockWithContext(Positioned, BasicBlock):
    """`BasicBlock` with a context block after its last norm or after its addition."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.at("after_norm", self.bn2(self.conv2(out)))
        return self.at("after_add", F.relu(out + self.shortcut(x)))
