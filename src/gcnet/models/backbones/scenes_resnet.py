"""Small network for generated scenes, with a receptive field smaller than the distance between objects."""

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from gcnet.insertion.residual_blocks.torchvision import BottleneckWithContext

RECEPTIVE_FIELD = 31
"""Receptive field in pixels before global pooling: 7 after the two strided convolutions, 8 more with each block."""


class SceneBottleneck(Bottleneck):
    """torchvision's bottleneck with 32 channels outside and 16 inside."""

    def __init__(self) -> None:
        super().__init__(inplanes=32, planes=8, base_width=128)


class ScenesResNet(nn.Module):
    """Two strided convolutions, one stage of three bottlenecks at stride 4, average pooling and a linear layer.

    Images are (N, 3, H, W) float, logits (N, num_classes).

    Args:
        num_classes: number of classes.
    """

    def __init__(self, num_classes: int = 6) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_halve(3, 16), *_halve(16, 32))
        self.layer1 = nn.Sequential(SceneBottleneck(), SceneBottleneck(), SceneBottleneck())
        self.fc = nn.Linear(32, num_classes)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        return self.fc(self.layer1(self.stem(images)).mean(dim=(2, 3)))


def _halve(in_channels: int, channels: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(channels), nn.ReLU()


class SceneBottleneckWithContext(BottleneckWithContext, SceneBottleneck):
    """`SceneBottleneck` with a context block at any of the three positions."""
