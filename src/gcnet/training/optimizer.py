"""Optimizer, learning-rate schedule and weight averaging."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from gcnet.errors import UserError, nearest
from gcnet.insertion.model_copies import deep_copy
from gcnet.training.recipe import RecipeSettings
from gcnet.training.sharded_network import local_part


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak`, then cosine, multi-step or constant, for steps 0 to `total` - 1.

    The cosine reaches `final` after the last step, as `torch.optim.lr_scheduler.CosineAnnealingLR` with T_max of
    `total`; with warm-up it runs over the remaining steps. In warm-up, step i has peak * (i + 1) / warmup, or with
    `start` peak * (start + (1 - start) * i / warmup), as in mmdet.

    Args:
        kind: "cosine", "step" or "constant".
        peak: learning rate after warm-up.
        final: learning rate at the end of the cosine.
        warmup: steps of warm-up.
        total: steps of the run.
        milestones: fractions of the run at which "step" multiplies by `factor`.
        factor: of each milestone.
        start: warm-up start factor in [0, 1], None for 1 / warmup.
    """

    kind: str
    peak: float
    final: float
    warmup: int
    total: int
    milestones: tuple[float, ...]
    factor: float
    start: float | None = None

    def at(self, step: int) -> float:
        """Return the learning rate of `step`, counted from 0."""
        if step < self.warmup:
            if self.start is None:
                return self.peak * (step + 1) / self.warmup
            return self.peak * (self.start + (1 - self.start) * step / self.warmup)
        if self.kind == "constant":
            return self.peak
        if self.kind == "step":
            return self.peak * self.factor ** sum(step >= round(at * self.total) for at in self.milestones)
        done = (step - self.warmup) / max(self.total - self.warmup, 1)
        return self.final + (self.peak - self.final) * (1 + math.cos(math.pi * done)) / 2


def build_schedule(recipe: RecipeSettings, steps_per_epoch: int) -> Schedule:
    """Build the learning-rate schedule of a recipe.

    Args:
        recipe: with its preset.
        steps_per_epoch: optimizer steps per epoch.

    Returns:
        The schedule.
    """
    recipe = recipe.with_defaults()
    return Schedule(
        kind=recipe.schedule or "",
        peak=recipe.peak_lr,
        final=recipe.min_lr,
        warmup=recipe.warmup_steps(steps_per_epoch),
        total=recipe.length(steps_per_epoch),
        milestones=recipe.milestones or (),
        factor=recipe.lr_gamma,
        start=recipe.warmup_start_factor,
    )


def build_average(model: nn.Module, decay: float) -> AveragedModel:
    """Build an exponential moving average of the weights: average = d * average + (1 - d) * weights.

    d is min(decay, (1 + n) / (10 + n)) after n updates, as in `tf.train.ExponentialMovingAverage`, so that the initial
    weights do not dominate a short run. Floating-point buffers are averaged too.

    Args:
        model: the network.
        decay: in (0, 1).

    Returns:
        The average, a copy of the network at first.

    Raises:
        UncopyableNetwork: an object of the network cannot be copied.
    """

    @torch.no_grad()
    def follow(averages: Sequence[Tensor], values: Sequence[Tensor], _updates: Tensor | int) -> None:
        averages, values = [*map(local_part, averages)], [*map(local_part, values)]
        if not averages[0].is_floating_point():
            torch._foreach_copy_(averages, values)
            return
        # Read from the buffer, which lives on the CPU: the argument is a copy on the GPU, and reading it would wait.
        count = int(average.n_averaged)
        torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + count) / (10 + count)))

    average = AveragedModel(nn.Identity(), multi_avg_fn=follow, use_buffers=True)
    average.module = deep_copy(model)  # AveragedModel would copy no pruned network
    return average.eval().requires_grad_(False)


def freeze(model: nn.Module, patterns: Sequence[str], *, optional: Collection[str] = ()) -> list[str]:
    """Freeze every parameter whose name matches a pattern.

    Args:
        model: the network.
        patterns: glob patterns of parameter names, such as "layer1.*".
        optional: patterns that need no match, such as those of a preset (frozen norms have no parameters).

    Returns:
        The names of the frozen parameters.

    Raises:
        UserError: another pattern matches no parameter, or no parameter is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if pattern not in optional and not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"`freeze={pattern}` matches no parameter{nearest(pattern, names) or _example(names)}")
    frozen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if len(frozen) == len(names):
        raise UserError(f"`freeze` leaves nothing to train: all {len(names)} parameters match")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in frozen)
    return frozen


def _example(names: Sequence[str]) -> str:
    return f"; it takes patterns of their names, such as '{names[0].partition('.')[0]}.*'"


def freeze_bn_stats(model: nn.Module, *, all_of_them: bool) -> None:
    """Put batch norms of a network in training mode back into evaluation mode, so that their statistics stay.

    Args:
        model: the network.
        all_of_them: all batch norms, or only those whose scale is frozen.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and (all_of_them or (module.affine and not module.weight.requires_grad)):
            module.eval()


def build_optimizer(model: nn.Module, recipe: RecipeSettings, block_parameters: Collection[str] = ()) -> Optimizer:
    """Build SGD or AdamW over the parameters that are not frozen.

    Every group has an `lr_factor` that multiplies the learning rate of the schedule. Vectors and scalars (norms and
    biases) have no weight decay unless `recipe.decay_all`.

    Args:
        model: the network.
        recipe: optimizer, learning rate, weight decay.
        block_parameters: names of the parameters whose `lr_factor` is `recipe.block_lr_mult`.

    Returns:
        The optimizer.

    Raises:
        UserError: `block_lr_mult` is not 1 and there are no `block_parameters`.
    """
    if recipe.block_lr_mult != 1 and not block_parameters:
        raise UserError(f"`block_lr_mult={recipe.block_lr_mult}` has no effect: the network has no inserted blocks")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = recipe.block_lr_mult if name in block_parameters else 1.0
            decay = recipe.decay if recipe.decay_all or parameter.ndim > 1 else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    described = [
        {"params": parameters, "lr_factor": factor, "lr": recipe.peak_lr * factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]
    if recipe.optimizer == "adamw":
        return AdamW(described, fused=True)
    # Not fused: PyTorch's fused SGD keeps an undefined momentum where a scaler of fp16 skips the first step.
    return SGD(described, lr=recipe.peak_lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group, multiplied by its `lr_factor`.

    Args:
        optimizer: of `build_optimizer`.
        rate: learning rate of the schedule.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]


def clip_gradients(optimizer: Optimizer, limit: float) -> torch.Tensor:
    """Clip the gradients of all parameters of an optimizer.

    Args:
        optimizer: with gradients.
        limit: maximum total L2 norm.

    Returns:
        The norm before clipping, shape ().
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return nn.utils.clip_grad_norm_(parameters, limit)
