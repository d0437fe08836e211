"""The residual block of our CIFAR networks with a context block."""

import torch.nn.functional as F
from torch import Tensor

from gcnet.models.cifar_resnet import BasicBlock
from gcnet.models.residual.position import Positioned


class BasicBlockWithContext(Positioned, BasicBlock):
    """`BasicBlock` with a context block after its last norm or after its addition."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.at("after_norm", self.bn2(self.conv2(out)))
        return self.at("after_add", F.relu(out + self.shortcut(x)))
