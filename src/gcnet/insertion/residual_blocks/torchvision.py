"""torchvision's ResNet and ResNeXt blocks with a context block."""

from torch import Tensor
from torchvision.models.resnet import BasicBlock, Bottleneck

from gcnet.insertion.residual_blocks.position import Positioned


class BasicBlockWithContext(Positioned, BasicBlock):
    """torchvision's `BasicBlock` with a context block after its last norm or after its addition."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.at("after_norm", self.bn2(self.conv2(out)))
        identity = x if self.downsample is None else self.downsample(x)
        return self.at("after_add", self.relu(self.join(out, identity)))


class BottleneckWithContext(Positioned, Bottleneck):
    """torchvision's `Bottleneck` with a context block at any of the three positions."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.at("after_conv2", self.relu(self.bn2(self.conv2(out))))
        out = self.at("after_norm", self.bn3(self.conv3(out)))
        identity = x if self.downsample is None else self.downsample(x)
        return self.at("after_add", self.relu(self.join(out, identity)))
