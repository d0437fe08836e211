"""Trial step before a run begins, so that errors come before anything is written."""

from collections.abc import Sequence

import torch

from gcnet.data.seeding import preserved_random_state
from gcnet.errors import UserError
from gcnet.training.optimizer import freeze_bn_stats
from gcnet.training.single_values import single_values_seen, training_norms
from gcnet.training.task import micro_batches
from gcnet.training.trainer import Trainer

_LISTED = 3


def try_network(trainer: Trainer) -> None:
    """Run the first readable validation image through the network in evaluation mode; nothing changes.

    Args:
        trainer: ready for its first step.

    Raises:
        UserError: no validation image can be read, or micro-batches have one image and a batch norm would see a single
            value per channel.
    """
    network, device = trainer.network, trainer.device
    network.train()
    freeze_bn_stats(network, all_of_them=trainer.recipe.freeze_bn_stats)
    norms = training_norms(network)
    network.eval()
    with preserved_random_state(), torch.no_grad(), single_values_seen(norms) as names:
        batch = trainer.task.sample(device)
        with torch.autocast(device.type, dtype=trainer.autocast, enabled=trainer.autocast is not None):
            trainer.task.forward(network, batch)
    if names and _smallest_batch(trainer) == 1:
        raise _refused(trainer, names)


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
