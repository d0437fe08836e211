"""The statistics of `nn.SyncBatchNorm`, over the batches of several processes, for `gcnet.ops.batch_norm`.

Each process exchanges what `nn.SyncBatchNorm` itself does, at the same places: mean, 1 / sqrt(var + eps) and count in
the forward pass, two sums for each channel in the backward pass. So every process may use either (docs/fusion.md).
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gcnet.ops.batch_norm import NormStatistics, Upstream, gradient_of_input


def group_of_norm(norm: nn.Module) -> Any:
    """Return the process group over whose batches a norm takes its statistics, or None if it does so alone.

    Args:
        norm: any norm.
    """
    if not isinstance(norm, nn.SyncBatchNorm) or not norm.training:
        return None
    if not dist.is_available() or not dist.is_initialized():
        return None
    group = norm.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def synchronized_statistics(
    z: Float[Tensor, "n c *s"],
    affine: tuple[Float[Tensor, " c"], Float[Tensor, " c"]],
    running: tuple[Float[Tensor, " c"], Float[Tensor, " c"]],
    *,
    momentum: float,
    eps: float,
    group: Any,
) -> tuple[NormStatistics, Float[Tensor, " c"]]:
    """Return the statistics of the batches of all processes, and beta, and update the running statistics.

    `alpha` and beta have gradients. The mean has none: whatever depends on the mean must do so by
    `alpha (v - mean) + bias` with the bias returned here, whose gradient then tells that of the mean.

    Args:
        z: input of the norm in this process, not empty.
        affine: gamma and beta.
        running: running mean and variance, updated in place to the same bits as by `nn.SyncBatchNorm`.
        momentum: weight of the batches in the running statistics, 0 to 1.
        eps: added to the variance.
        group: process group, from `group_of_norm`.
    """
    with torch.no_grad():
        mean, inverse, count = _gathered(z, running, momentum, eps, group)
    upstream = Upstream()
    alpha, bias = _SynchronizedStatistics.apply(z, *affine, mean, inverse, count, group, upstream)
    return NormStatistics(alpha, mean, upstream), bias


def _gathered(
    z: Tensor, running: tuple[Tensor, Tensor], momentum: float, eps: float, group: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, 1 / sqrt(var + eps) and number of values in a channel, over all processes."""
    mean, inverse = torch.batch_norm_stats(z, eps)
    channels = len(mean)
    own = torch.cat([mean, inverse, mean.new_full((1,), z.numel() // channels)])
    means, inverses, counts = _of_everyone(own, group).split([channels, channels, 1], dim=1)
    if not (z.is_cuda and torch.cuda.is_current_stream_capturing()):
        # A process with an empty batch sends zeros. The mask waits for the GPU, which a CUDA graph does not allow.
        filled = counts[:, 0] >= 1
        means, inverses, counts = means[filled], inverses[filled], counts[filled]
    counts = counts.flatten()
    mean, inverse = torch.batch_norm_gather_stats_with_counts(
        z, means, inverses, *running, momentum, eps, counts.to(running[0].dtype)
    )
    return mean, inverse, counts.sum()


def _of_everyone(own: Tensor, group: Any) -> Tensor:
    """The vectors of all processes as rows, by the operations that `nn.SyncBatchNorm` uses."""
    everyone = own.new_empty(dist.get_world_size(group), len(own))
    if dist.get_backend(group) == "gloo":
        dist.all_gather(list(everyone), own, group)
    else:
        gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # the name until 2.13
        gather(everyone.view(-1), own, group)
    return everyone


class _SynchronizedStatistics(torch.autograd.Function):
    """`alpha = weight s` and the bias itself, so that the gradients of both are complete where this node runs."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        inverse: Tensor,
        count: Tensor,
        group: Any,
        upstream: Upstream,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(z, weight, mean, inverse, count)
        ctx.group, ctx.upstream = group, upstream
        return weight * inverse, bias.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the mean is `-alpha` times that of the bias."""
        z, weight, mean, inverse, count = ctx.saved_tensors
        of_alpha, of_bias = gradients
        upstream = ctx.upstream.take()
        of_z: Tensor | None = None
        if ctx.needs_input_grad[0]:
            sums = torch.cat([of_bias, of_alpha])
            dist.all_reduce(sums, group=ctx.group)
            total, along = (sums / count).chunk(2)
            of_z = gradient_of_input(z, (weight, mean, inverse), (along, -weight * inverse * total), upstream)
        return of_z, of_alpha * inverse, of_bias, *(None,) * 5
