"""timm's ResNet and ResNeXt blocks with a context block.

The context block comes after the channel attention of the residual block (`se`), if there is one.
"""

from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from gcnet.insertion.residual_blocks.position import Positioned


class _TimmResidual(Positioned):
    """The forward pass of both blocks after their last norm."""

    aa: nn.Module
    se: nn.Module | None
    drop_path: nn.Module | None
    downsample: nn.Module | None

    def finish(self, out: Tensor, x: Tensor, activation: nn.Module) -> Tensor:
        """The attention, the context block, stochastic depth, the shortcut and the last activation."""
        if self.se is not None:
            out = self.se(out)
        out = self.at("after_norm", out)
        if self.drop_path is not None:
            out = self.drop_path(out)
        identity = x if self.downsample is None else self.downsample(x)
        return self.at("after_add", activation(self.join(out, identity)))


class TimmBasicBlockWithContext(_TimmResidual, BasicBlock):
    """timm's `BasicBlock` with a context block after its last norm or after its addition."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.aa(self.act1(self.drop_block(self.bn1(self.conv1(x)))))
        out = self.bn2(self.conv2(out))
        return self.finish(out, x, self.act2)


class TimmBottleneckWithContext(_TimmResidual, Bottleneck):
    """timm's `Bottleneck` with a context block at any of the three positions."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.aa(self.act2(self.drop_block(self.bn2(self.conv2(out)))))
        out = self.at("after_conv2", out)
        out = self.bn3(self.conv3(out))
        return self.finish(out, x, self.act3)
