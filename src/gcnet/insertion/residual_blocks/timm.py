"""timm's ResNet and ResNeXt blocks with a context block.

The context block comes after the channel attention of the residual block (`se`), if there is one.
"""

from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from gcnet.framework.tracing import one_graph_node
from gcnet.insertion.residual_blocks.expansion import Expanding
from gcnet.insertion.residual_blocks.fused import FusedBottleneck, Stage
from gcnet.insertion.residual_blocks.position import Positioned


class _TimmResidual(Positioned):
    """The forward pass of both blocks after their last norm."""

    aa: nn.Module
    se: nn.Module | None
    drop_path: nn.Module | None
    downsample: nn.Module | None

    def attend(self, out: Tensor) -> Tensor:
        """The channel attention and the context block after the last norm."""
        return self.at("after_norm", out if self.se is None else self.se(out))

    def finish(self, out: Tensor, x: Tensor, activation: nn.Module) -> Tensor:
        """Stochastic depth, the shortcut and the last activation."""
        if self.drop_path is not None:
            out = self.drop_path(out)
        return self.at("after_add", activation(self.join(out, self.shortcut(x))))

    def shortcut(self, x: Tensor) -> Tensor:
        """The input of the residual block, or its downsampling."""
        return x if self.downsample is None else self.downsample(x)


class TimmBasicBlockWithContext(_TimmResidual, BasicBlock):
    """timm's `BasicBlock` with a context block after its last norm or after its addition."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.aa(self.act1(self.drop_block(self.bn1(self.conv1(x)))))
        return self.finish(self.attend(self.bn2(self.conv2(out))), x, self.act2)


class TimmBottleneckWithContext(_TimmResidual, Expanding, Bottleneck):
    """timm's `Bottleneck` with a context block at any of the three positions."""

    @staticmethod
    def fused_class() -> type[FusedBottleneck]:
        """Return the class of this residual block with its context before the last convolution."""
        return FusedTimmBottleneck

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.aa(self.act2(self.drop_block(self.bn2(self.conv2(out)))))
        out = self.at("after_conv2", out)
        if self.se is not None:
            return self.finish(self.attend(self.bn3(self.conv3(out))), x, self.act3)
        if self.drop_path is not None:
            return self.finish(self.expand(out), x, self.act3)
        return self.at("after_add", self.expand_and_join(out, self.shortcut(x), self.act3))


class FusedTimmBottleneck(FusedBottleneck, TimmBottleneckWithContext):
    """timm's `Bottleneck` with its context before the last convolution."""

    @one_graph_node
    def forward(self, x: Tensor, stage: Stage | None = None) -> Tensor:
        h = self.act1(self.bn1(self.conv1(x)))
        h = self.aa(self.act2(self.drop_block(self.bn2(self.conv2(h)))))
        return self.residual(h, x, self.act3, stage)
