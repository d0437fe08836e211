"""The residual block of the scenes network with a context block."""

from gcnet.models.residual.torchvision import BottleneckWithContext
from gcnet.models.scenes_resnet import SceneBottleneck


class SceneBottleneckWithContext(BottleneckWithContext, SceneBottleneck):
    """`SceneBottleneck` with a context block at any of the three positions."""
