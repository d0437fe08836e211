"""Trial steps before a run begins: errors come before anything is written, and batches fit into memory."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from gcnet.compilation import uncompiled
from gcnet.data.seeding import preserved_random_state
from gcnet.errors import UserError
from gcnet.training.fitting import largest_that_fits
from gcnet.training.optimizer import freeze_bn_stats
from gcnet.training.single_values import single_values_seen, training_norms
from gcnet.training.task import TrainingBatch, TrainingTask, micro_batches
from gcnet.training.trainer import NonFiniteLoss, Trainer

_LISTED = 3
_BATCHES = 4  # looked at for one without unreadable images
_PARTS = 8  # micro-batches of a trial, at most
# Of these modules, the backward pass on a GPU raises an error in deterministic mode; global pooling (size 1) does not.
_NONDETERMINISTIC = {
    "FrequencyPool": "the frequency pooling of fca",
    "NarrowFrequencies": "the frequency pooling of fca",
    "DeformableConv2d": "a deformable convolution",
    "AdaptiveAvgPool2d": "an adaptive average pooling",
    "AdaptiveAvgPool3d": "an adaptive average pooling",
    "AdaptiveMaxPool2d": "an adaptive max pooling",
}


def try_network(trainer: Trainer) -> None:
    """Run the first readable validation image through the network in evaluation mode; nothing changes.

    Args:
        trainer: ready for its first step.

    Raises:
        UserError: no validation image can be read, or micro-batches have one image and a batch norm would see a single
            value per channel; or `deterministic` on a GPU, and the network has modules without deterministic kernels.
    """
    network, device = trainer.whole(trainer.network), trainer.device
    if trainer.machine.deterministic and device.type == "cuda":
        refuse_nondeterministic(network)
    network.train()
    freeze_bn_stats(network, all_of_them=trainer.recipe.freeze_bn_stats)
    norms = training_norms(network)
    network.eval()
    with preserved_random_state(), torch.no_grad(), uncompiled(network), single_values_seen(norms) as names:
        batch = trainer.task.sample(device)
        with torch.autocast(device.type, dtype=trainer.autocast, enabled=trainer.autocast is not None):
            trainer.task.forward(network, batch)
    if names and _smallest_batch(trainer) == 1:
        raise _refused(trainer, names)


def refuse_nondeterministic(network: nn.Module) -> None:
    """Refuse modules that PyTorch and torchvision cannot train deterministically on GPUs.

    Args:
        network: to train with `deterministic`.

    Raises:
        UserError: it has such modules.
    """
    for name, module in network.named_modules():
        reason = _NONDETERMINISTIC.get(type(module).__name__)
        if reason is not None and getattr(module, "output_size", None) not in (1, (1, 1), (1, 1, 1)):
            raise UserError(f"`deterministic`: there are no deterministic GPU kernels to train {name}, {reason}")


def fitting_accumulation(trainer: Trainer) -> int:
    """Find the smallest number of micro-batches with which training steps fit into the memory of every process.

    Tries two steps on the first whole batch, the second with the state of the optimizer; of many micro-batches, a few.
    The network is trained by them, and losses that are not finite are an error of the run, in all processes, and not of
    the trial.

    Args:
        trainer: ready for its first step, of a network that is not used afterwards.

    Returns:
        `grad_accumulation`, a divisor of the images of each process.

    Raises:
        OutOfMemory: a single image does not fit.
        UserError: processes exchange statistics in every forward pass (SyncBatchNorm), so that none can try alone.
    """
    if trainer.synchronized:
        raise UserError("`batch_size=auto` cannot try batches with `norm=sync`: give a number")
    own = trainer.recipe.images_per_step // trainer.processes.world
    batch = _whole_batch(trainer.task.batches(0, trainer.device), own)
    alone = trainer.alone()
    alone.task = cast(TrainingTask[Any, Any], _FirstParts(trainer.task))

    def try_steps(images: int) -> None:
        alone.recipe = replace(alone.recipe, grad_accumulation=own // images)
        with suppress(NonFiniteLoss):
            for _ in range(2):
                alone.train_step(batch)

    sizes = [own // parts for parts in range(1, own + 1) if own % parts == 0]
    with uncompiled(trainer.network):
        return own // largest_that_fits(sizes, try_steps, trainer.device, trainer.processes)


class _FirstParts:
    """A training whose steps take the first micro-batches only: the others need no more memory."""

    def __init__(self, task: TrainingTask[Any, Any]) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def split(self, batch: TrainingBatch, parts: int) -> list[Any]:
        """Split a batch, and return some of the micro-batches."""
        return list(self._task.split(batch, parts)[:_PARTS])


def _whole_batch(batches: Iterator[TrainingBatch], images: int) -> TrainingBatch:
    """The first of a few batches in which all images can be read, else that with the most."""
    found = next(batches)
    for _ in range(_BATCHES - 1):
        if len(found.names) == images:
            break
        found = max(found, next(batches), key=lambda batch: len(batch.names))
    return found


def _smallest_batch(trainer: Trainer) -> int:
    """Images of the smallest micro-batch of a process."""
    own = trainer.recipe.images_per_step // trainer.processes.world
    return min(where.stop - where.start for where in micro_batches(own, trainer.recipe.grad_accumulation))


def _refused(trainer: Trainer, names: Sequence[str]) -> UserError:
    processes = f" over {trainer.processes.world} processes" if trainer.processes.world > 1 else ""
    parts = trainer.recipe.grad_accumulation
    batch = f"`batch_size={trainer.recipe.images_per_step}`{processes}"
    batch += f" with `grad_accumulation={parts}`" if parts > 1 else ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return UserError(
        f"{batch} gives micro-batches of 1 image, of which batch norms ({', '.join(names[:_LISTED])}{more}) would get "
        "a single value per channel and have no variance to normalize by: use a larger `batch_size`, a smaller "
        "`grad_accumulation`, larger images, or `freeze_bn_stats`"
    )
