"""ResNet-50 for clips: I3D, slow-only and TSM."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

_EXPANSION = 4  # channels of a bottleneck's output over those of its 3x3 convolution
_WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True)
class VideoDesign:
    """What the three networks differ in.

    Attributes:
        kernels: of each stage, temporal size of the first convolution of each bottleneck.
        stem_kernel: temporal size of the stem's convolution.
        stem_stride: temporal stride of the stem's convolution, and of its pooling.
        pools_frames: whether the first stage is followed by max pooling over two frames.
        shift: one over the share of channels that the bottlenecks shift by one frame in each direction; 0 for none.
    """

    kernels: Sequence[Sequence[int]]
    stem_kernel: int = 1
    stem_stride: int = 1
    pools_frames: bool = False
    shift: int = 0


_PLAIN = ((1, 1, 1), (1,) * 4, (1,) * 6, (1, 1, 1))
VIDEO_DESIGNS = {
    "i3d_resnet50": VideoDesign(((3, 3, 3), (3, 1) * 2, (3, 1) * 3, (1, 3, 1)), 5, 2, pools_frames=True),
    "slowonly_resnet50": VideoDesign(((1, 1, 1), (1,) * 4, (3,) * 6, (3, 3, 3))),
    "tsm_resnet50": VideoDesign(_PLAIN, shift=8),
}
"""By name: inflated 3D (arXiv 1705.07750; with ResNet 1711.07971), the slow path of SlowFast (1812.03982), and temporal
shift (1811.08383)."""


class VideoBottleneck(nn.Module):
    """Bottleneck of ResNet-50 on clips (N, C, T, H, W); the first convolution spans or shifts frames.

    Args:
        in_channels: C of the input.
        width: channels of the 3x3 convolution.
        stride: spatial stride of the 3x3 convolution.
        frames: temporal size of the first convolution.
        shift: one over the share of channels that are shifted by one frame in each direction; 0 for none.
    """

    def __init__(self, in_channels: int, width: int, *, stride: int, frames: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.conv1 = nn.Conv3d(in_channels, width, (frames, 1, 1), padding=(frames // 2, 0, 0), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, _EXPANSION * width, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(_EXPANSION * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride > 1 or in_channels != _EXPANSION * width:
            shortcut = nn.Conv3d(in_channels, _EXPANSION * width, 1, stride=(1, stride, stride), bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(_EXPANSION * width))

    def forward(self, x: Float[Tensor, "n c t h w"]) -> Float[Tensor, "n c_out t h_out w_out"]:
        out = self.conv1(shift_frames(x, x.shape[1] // self.shift) if self.shift else x)
        out = self.relu(self.bn1(out))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        identity = x if self.downsample is None else self.downsample(x)
        return self.relu(out + identity)


def shift_frames(x: Float[Tensor, "n c t h w"], channels: int) -> Float[Tensor, "n c t h w"]:
    """Return clips whose first channels come from the next frame and the second ones from the frame before.

    Args:
        x: clips.
        channels: number of channels shifted in each direction; zeros move in at the ends.

    Reference:
        Temporal shift module, arXiv 1811.08383, section 3.
    """
    shifted = torch.zeros_like(x)
    shifted[:, :channels, :-1] = x[:, :channels, 1:]
    shifted[:, channels : 2 * channels, 1:] = x[:, channels : 2 * channels, :-1]
    shifted[:, 2 * channels :] = x[:, 2 * channels :]
    return shifted


class VideoResNet(nn.Module):
    """ResNet-50 on clips (N, 3, T, H, W) float -> logits (N, num_classes).

    Args:
        design: what differs between the networks.
        num_classes: number of classes.
    """

    def __init__(self, design: VideoDesign, num_classes: int = 400) -> None:
        super().__init__()
        frames, stride = design.stem_kernel, design.stem_stride
        self.conv1 = nn.Conv3d(3, 64, (frames, 7, 7), (stride, 2, 2), (frames // 2, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d((1, 3, 3), (stride, 2, 2), (0, 1, 1))
        self.layer1 = _stage(design, 0, 64)
        self.layer2 = _stage(design, 1, 256)
        self.layer3 = _stage(design, 2, 512)
        self.layer4 = _stage(design, 3, 1024)
        self.frame_pool = nn.MaxPool3d((2, 1, 1)) if design.pools_frames else nn.Identity()
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(2048, num_classes)

    def forward(self, clips: Float[Tensor, "n 3 t h w"]) -> Float[Tensor, "n k"]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(clips))))
        x = self.frame_pool(self.layer1(x))
        x = self.layer4(self.layer3(self.layer2(x)))
        return self.fc(self.dropout(x.mean(dim=(2, 3, 4))))


def _stage(design: VideoDesign, index: int, channels: int) -> nn.Sequential:
    """Stage `index` from 0, whose input has `channels` channels."""
    width, blocks = _WIDTHS[index], []
    for number, frames in enumerate(design.kernels[index]):
        stride = 2 if index > 0 and number == 0 else 1
        blocks.append(VideoBottleneck(channels, width, stride=stride, frames=frames, shift=design.shift))
        channels = _EXPANSION * width
    return nn.Sequential(*blocks)
