"""The exponential moving average of a network's weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def build_average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the network that follows it: average = d * average + (1 - d) * weights, floating buffers included.

    d is min(decay, (1 + n) / (10 + n)) after n updates, so that a short run is not an average of its initial weights
    (the warm-up of `tf.train.ExponentialMovingAverage`).
    """

    @torch.no_grad()
    def follow(averages: Sequence[Tensor], values: Sequence[Tensor], _updates: Tensor | int) -> None:
        if not averages[0].is_floating_point():
            torch._foreach_copy_(list(averages), list(values))
            return
        # Read from the buffer, which lives on the CPU: the argument is a copy on the GPU, and reading it would wait.
        count = int(average.n_averaged)
        torch._foreach_lerp_(list(averages), list(values), 1 - min(decay, (1 + count) / (10 + count)))

    average = AveragedModel(model, multi_avg_fn=follow, use_buffers=True)
    return average.eval().requires_grad_(False)
