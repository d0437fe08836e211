"""The losses of a batch: computed in one forward pass, read without idle time, refused where they are not finite."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gcnet.errors import UserError
from gcnet.training.single_values import running_statistics_for_single_values
from gcnet.training.task import TrainingBatch, TrainingTask

_LISTED = 8


class BatchLosses(nn.Module):
    """From a batch to its losses, so that DistributedDataParallel sees one forward.

    Args:
        network: the network.
        task: computes the losses.

    Attributes:
        names: names of the losses of the last batch.
        single_valued: batches of one image so far, of which batch norms got single values and used running statistics.
    """

    def __init__(self, network: nn.Module, task: TrainingTask) -> None:
        super().__init__()
        self.network = network
        self.task = task
        self.names: tuple[str, ...] = ("loss",)
        self.single_valued = 0

    def forward(self, batch: TrainingBatch) -> Tensor:
        """Return the losses, shape (number of losses,); zero, with zero gradients, for an empty batch.

        Args:
            batch: a micro-batch of this process.
        """
        if not batch.names:
            # This process has to take its part in the exchange of gradients all the same.
            nothing = sum(parameter.sum() * 0 for parameter in self.network.parameters() if parameter.requires_grad)
            return torch.stack([torch.as_tensor(nothing)] * len(self.names))
        if len(batch.names) == 1:
            # The rest of a batch with unreadable images.
            with running_statistics_for_single_values(self.network) as norms:
                losses = self.task.losses(self.network, batch)
            self.single_valued += bool(norms)
        else:
            losses = self.task.losses(self.network, batch)
        self.names = tuple(losses)
        return torch.stack([loss.float() for loss in losses.values()])


class LossReading:
    """Losses that are copied to the CPU asynchronously.

    On a GPU the copy is queued behind the forward pass, and the backward pass behind the copy: waiting for the values
    then costs no idle time, because the GPU is busy with the backward pass while the CPU looks at them.

    Args:
        values: losses of each micro-batch, shape (micro-batches, losses).
    """

    def __init__(self, values: Tensor) -> None:
        self._arrived = None
        self._host = values
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def values(self) -> list[list[float]]:
        """Return the losses of each micro-batch."""
        if self._arrived:
            self._arrived.synchronize()
        return self._host.tolist()


class NonFiniteLoss(UserError):
    """The loss of a step is not finite; the weights are those before the step.

    Args:
        step: counted from 0.
        value: of the loss.
        names: images of the micro-batches with a non-finite loss.
        what: name of the loss in the message.
    """

    def __init__(self, step: int, value: float, names: Sequence[str], *, what: str = "the loss") -> None:
        self.step = step
        self.names = list(names)
        listed = ", ".join(self.names[:_LISTED])
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        images = f"; images of the batch: {listed}{more}" if names else ""
        kind = "not a number" if math.isnan(value) else "infinite"
        advice = "try a lower `lr`, `clip_grad_norm` or `warmup_epochs`"
        super().__init__(f"{what} is {kind} in step {step + 1}{images}; {advice}")
