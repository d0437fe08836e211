"""Which parameters are trained, with which learning rate and decay: freezing, groups, the optimizer."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, AdamW, Optimizer

from gcnet.errors import UserError, nearest
from gcnet.training.settings import RecipeSettings


def freeze(model: nn.Module, patterns: Sequence[str], *, optional: Collection[str] = ()) -> list[str]:
    """Switch off the gradient of every parameter whose name matches a pattern; returns their names.

    Args:
        model: the network.
        patterns: of parameter names, such as "layer1.*".
        optional: those of the patterns that may match nothing, as a preset's may: frozen norms have no parameters.

    Raises:
        UserError: for another pattern that matches no parameter, or when none is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if pattern not in optional and not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f'--freeze "{pattern}" matches no parameter{nearest(pattern, names) or _example(names)}')
    frozen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if len(frozen) == len(names):
        raise UserError(f"--freeze leaves nothing to train: all {len(names)} parameters match")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in frozen)
    return frozen


def _example(names: Sequence[str]) -> str:
    return f"; it takes patterns of their names, such as '{names[0].partition('.')[0]}.*'"


def freeze_norms(model: nn.Module, *, all_of_them: bool) -> None:
    """Put batch norms of a network in training mode back into evaluation mode, so that their statistics stay.

    Arguments:
        model: the network.
        all_of_them: all batch norms, or only those whose scale is frozen.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and (all_of_them or (module.affine and not module.weight.requires_grad)):
            module.eval()


def build_optimizer(model: nn.Module, recipe: RecipeSettings, block_parameters: Collection[str] = ()) -> Optimizer:
    """SGD or AdamW over the parameters that are not frozen.

    Every group holds `lr_factor`, by which the schedule's learning rate is multiplied: `recipe.block_lr` for the
    parameters named in `block_parameters`, else 1. Vectors and scalars (norms and biases) go without decay where the
    recipe says so.

    Raises:
        UserError: for a `block_lr` other than 1 where nothing was inserted.
    """
    if recipe.block_lr != 1 and not block_parameters:
        raise UserError(f"--block-lr {recipe.block_lr} has nothing to act on: the network has no inserted blocks")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = recipe.block_lr if name in block_parameters else 1.0
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
    """Give every group its share of the schedule's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]


def clip_gradients(optimizer: Optimizer, limit: float) -> torch.Tensor:
    """Scale all gradients down to a total L2 norm of at most `limit`; returns the norm before that, shape ()."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return nn.utils.clip_grad_norm_(parameters, limit)
