"""Batch norm in two parts for training: first the statistics, then the output plus a term made from them.

`y = alpha (z - mean) + bias + term` with `alpha = weight / sqrt(var + eps)`. A term that depends on `alpha` and `mean`
is known before `y` is computed, so it is added in the same pass over `z`. The gradients of `alpha` and `mean`, from `y`
and from the term, enter the one pass that computes the gradient of `z` (docs/fusion.md, "Training").
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gcnet.ops.double_backward import derived_gradients, must_derive


@dataclass(frozen=True)
class InputGradient:
    """Gradient of the normalized output, and the function that combines it with that of the statistics.

    Attributes:
        output: gradient of `alpha (z - mean)`, of the shape of `z`.
        combine: from this gradient g, `z` and vectors (C,) to `scale g + slope z + offset`.
    """

    output: Tensor
    combine: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass
class Upstream:
    """Gradient of the output, which the output leaves for the statistics.

    Attributes:
        gradient: None if there is none.
        task: number of the backward pass it is of.
    """

    gradient: InputGradient | None = None
    task: int = -1

    def put(self, gradient: InputGradient) -> None:
        """Leave the gradient of the backward pass that runs."""
        self.gradient, self.task = gradient, torch._C._current_graph_task_id()

    def take(self) -> InputGradient | None:
        """Return the gradient once, if the output left one in this backward pass."""
        gradient, self.gradient = self.gradient, None
        return gradient if self.task == torch._C._current_graph_task_id() else None


@dataclass(frozen=True)
class NormStatistics:
    """Statistics of a batch norm, with gradients.

    Attributes:
        alpha: (C,), `weight / sqrt(var + eps)`, with the biased variance.
        mean: (C,).
        upstream: link between the two backward passes; None if the statistics do not depend on `z`.
    """

    alpha: Float[Tensor, " c"]
    mean: Float[Tensor, " c"]
    upstream: Upstream | None = None


def batch_statistics(
    z: Float[Tensor, "n c *s"],
    weight: Float[Tensor, " c"],
    running: tuple[Float[Tensor, " c"], Float[Tensor, " c"]],
    *,
    momentum: float,
    eps: float,
) -> NormStatistics:
    """Return the statistics of a batch, as functions of `z` and `weight`, and update the running ones.

    Args:
        z: input of the batch norm.
        weight: gamma.
        running: running mean and variance, updated in place to the same bits as by `F.batch_norm`.
        momentum: weight of the batch in the running statistics, 0 to 1.
        eps: added to the variance.

    Raises:
        ValueError: a channel has one value only.
    """
    if z.numel() == z.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {z.size()}")
    if torch.compiler.is_compiling():
        return NormStatistics(*_traced_statistics(z, weight, running, momentum, eps))
    with torch.no_grad():
        values = torch.ops.aten.batch_norm_update_stats(z, *running, momentum)
    upstream = Upstream()
    return NormStatistics(*_Statistics.apply(z, weight, *values, eps, upstream), upstream)


def fixed_statistics(
    weight: Float[Tensor, " c"], running: tuple[Float[Tensor, " c"], Float[Tensor, " c"]], *, eps: float
) -> NormStatistics:
    """Return the running statistics, for a batch norm in eval mode.

    Args:
        weight: gamma.
        running: running mean and variance.
        eps: added to the variance.
    """
    mean, variance = running
    return NormStatistics(weight * torch.rsqrt(variance + eps), mean)


def normalized_plus(
    z: Float[Tensor, "n c *s"],
    statistics: NormStatistics,
    bias: Float[Tensor, " c"],
    term: Float[Tensor, "n c"],
) -> Float[Tensor, "n c *s"]:
    """Return `alpha (z - mean) + bias + term` in one pass over `z`, in its dtype and memory format.

    Args:
        z: input of the batch norm.
        statistics: from `batch_statistics` of `z`, or `fixed_statistics`.
        bias: beta.
        term: added to each sample and channel.
    """
    arguments = z, statistics.alpha, statistics.mean, bias, term
    if torch.compiler.is_compiling():
        return output_plus(*arguments)
    return _Output.apply(*arguments, statistics.upstream)


def gradient_of_input(
    z: Float[Tensor, "n c *s"],
    values: tuple[Float[Tensor, " c"], Float[Tensor, " c"], Float[Tensor, " c"]],
    gradients: tuple[Float[Tensor, " c"], Float[Tensor, " c"]],
    upstream: InputGradient | None,
) -> Float[Tensor, "n c *s"]:
    """Return `m - g weight s^3 (z - mean)`, the gradient of `z` from the statistics, plus that from the output.

    Args:
        z: input of the batch norm.
        values: weight, mean and s = 1 / sqrt(var + eps).
        gradients: g of alpha and m of the mean, divided by the number of values in a channel.
        upstream: gradient of the output, if that of `z` is to include it.
    """
    weight, mean, inverse = values
    of_alpha, of_mean = gradients
    slope = -of_alpha * weight * inverse.pow(3)
    offset = of_mean - slope * mean
    if upstream is None:
        return _linear(z, slope, offset)
    return upstream.combine(upstream.output, z, weight * inverse, slope, offset)


def _wide(vector: Tensor, z: Tensor) -> Tensor:
    """(C,) or (N, C) as a view that broadcasts over `z`, in its dtype."""
    return vector.view(*(vector.shape if vector.dim() == 2 else (1, -1)), *[1] * (z.dim() - 2)).to(z.dtype)


def _alpha_and_mean(z: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The statistics by differentiable operations."""
    variance, mean = _moments(z, weight.dtype)
    return weight * torch.rsqrt(variance + eps), mean


def _moments(z: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The biased variance and the mean of every channel."""
    return torch.var_mean(z.to(dtype), [0, *range(2, z.dim())], correction=0)


def _traced_statistics(
    z: Tensor, weight: Tensor, running: tuple[Tensor, Tensor], momentum: float, eps: float
) -> tuple[Tensor, Tensor]:
    """The statistics by operations that a compiler fuses, with the update of the running ones."""
    variance, mean = _moments(z, weight.dtype)
    count = z.numel() // z.shape[1]
    with torch.no_grad():
        running[0].lerp_(mean.detach(), momentum)
        running[1].lerp_(variance.detach() * (count / (count - 1)), momentum)
    return weight * torch.rsqrt(variance + eps), mean


def output_plus(
    z: Float[Tensor, "n c *s"],
    alpha: Float[Tensor, " c"],
    mean: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
    term: Float[Tensor, "n c"],
) -> Float[Tensor, "n c *s"]:
    """Return `alpha (z - mean) + bias + term` by differentiable operations, in the dtype of `z`.

    Args:
        z: input of the batch norm.
        alpha: `weight / sqrt(var + eps)`.
        mean: of the batch, or the running mean.
        bias: beta.
        term: added to each sample and channel.
    """
    return torch.addcmul(_wide(term + (bias - alpha * mean), z), z, _wide(alpha, z))


def _linear(z: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """`slope z + offset`, in the memory format of `z`."""
    return torch.addcmul(_wide(offset, z), z, _wide(slope, z), out=torch.empty_like(z))


def _input_gradient(grad: Tensor, z: Tensor, scale: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    return _linear(z, slope, offset).addcmul_(grad, _wide(scale, z))


class _Statistics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, weight: Tensor, mean: Tensor, variance: Tensor, eps: float, upstream: Upstream
    ) -> tuple[Tensor, Tensor]:
        inverse = torch.rsqrt(variance + eps)
        ctx.save_for_backward(z, weight, mean, inverse)
        ctx.eps, ctx.upstream = eps, upstream
        return weight * inverse, mean.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, weight, mean, inverse = ctx.saved_tensors
        upstream, rest = ctx.upstream.take(), (None,) * 4
        if must_derive(gradients):  # Double backward: autograd derives it from the plain operations.
            function = partial(_alpha_and_mean, eps=ctx.eps)
            return *derived_gradients(function, (z, weight), ctx.needs_input_grad[:2], gradients), *rest
        of_alpha, of_mean = gradients
        of_z: Tensor | None = None
        if ctx.needs_input_grad[0]:
            count = z.numel() // z.shape[1]
            of_z = gradient_of_input(z, (weight, mean, inverse), (of_alpha / count, of_mean / count), upstream)
        return of_z, of_alpha * inverse, *rest


class _Output(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, alpha: Tensor, mean: Tensor, bias: Tensor, term: Tensor, upstream: Upstream | None
    ) -> Tensor:
        ctx.save_for_backward(z, alpha, mean, bias, term)
        ctx.upstream = upstream
        # Without `out`, the shape (N, C, 1, 1) of the term would decide on the memory format.
        return _linear(z, alpha, term + (bias - alpha * mean))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients; if `_Statistics` is part of the graph, that of `z` is left to it."""
        z, alpha, mean, bias, term = ctx.saved_tensors
        (grad,) = gradients
        if must_derive(gradients):
            return *derived_gradients(
                output_plus, (z, alpha, mean, bias, term), ctx.needs_input_grad[:5], gradients
            ), None
        of_z: Tensor | None = None
        if ctx.upstream is not None:
            ctx.upstream.put(InputGradient(grad, _input_gradient))
        elif ctx.needs_input_grad[0]:
            of_z = grad * _wide(alpha, grad)
        along, of_term = _sums(grad, z, mean)
        total = of_term.sum(0)
        return of_z, along, -alpha * total, total, of_term, None


def _sums(grad: Tensor, z: Tensor, mean: Tensor) -> tuple[Float[Tensor, " c"], Float[Tensor, "n c"]]:
    """`sum grad (z - mean)` of every channel, and `sum grad` of every sample and channel, in the dtype of `mean`."""
    count, channels = z.shape[:2]
    if not (z.is_contiguous() and grad.is_contiguous()):
        return _along_and_total(grad, z, mean)[0], grad.sum(tuple(range(2, grad.dim())), dtype=mean.dtype)
    # Every sample and channel is a channel of one sample, so that one pass gives both sums.
    rows = (1, count * channels, -1)
    along, total = _along_and_total(grad.view(rows), z.view(rows), mean.repeat(count))
    return along.view(count, channels).sum(0), total.view(count, channels)


def _along_and_total(grad: Tensor, z: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    ones = torch.ones_like(mean)
    _, along, total = torch.ops.aten.native_batch_norm_backward(
        grad, z, ones, None, None, mean, ones, True, 0.0, [False, True, True]
    )
    return along, total
