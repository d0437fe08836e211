"""torchvision's ResNet and ResNeXt blocks with a context block."""

from torch import Tensor
from torchvision.models.resnet import BasicBlock, Bottleneck

from gcnet.framework.tracing import one_graph_node
from gcnet.insertion.residual_blocks.expansion import Expanding
from gcnet.insertion.residual_blocks.fused import FusedBottleneck, Stage
from gcnet.insertion.residual_blocks.position import Positioned


class BasicBlockWithContext(Positioned, BasicBlock):
    """torchvision's `BasicBlock` with a context block after its last norm or after its addition."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.at("after_norm", self.bn2(self.conv2(out)))
        identity = x if self.downsample is None else self.downsample(x)
        return self.at("after_add", self.relu(self.join(out, identity)))


class BottleneckWithContext(Expanding, Bottleneck):
    """torchvision's `Bottleneck` with a context block at any of the three positions."""

    @staticmethod
    def fused_class() -> type[FusedBottleneck]:
        """Return the class of this residual block with its context before the last convolution."""
        return FusedTorchvisionBottleneck

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.at("after_conv2", self.relu(self.bn2(self.conv2(out))))
        identity = x if self.downsample is None else self.downsample(x)
        return self.at("after_add", self.expand_and_join(out, identity, self.relu))


class FusedTorchvisionBottleneck(FusedBottleneck, BottleneckWithContext):
    """torchvision's `Bottleneck` with its context before the last convolution."""

    @one_graph_node
    def forward(self, x: Tensor, stage: Stage | None = None) -> Tensor:
        h = self.relu(self.bn1(self.conv1(x)))
        h = self.relu(self.bn2(self.conv2(h)))
        return self.residual(h, x, self.relu, stage)
