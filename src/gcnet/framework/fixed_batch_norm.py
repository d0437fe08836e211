"""`FixedBatchNorm2d`: batch norm whose statistics are fixed also in training."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class FixedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that always uses its running statistics, with trainable scale and shift (fixBN of the papers)."""

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
