"""Running a network for its answers: evaluation mode, no gradients, automatic precision; the mode is put back after."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gcnet.models.outputs import class_outputs


@contextmanager
def evaluating(model: nn.Module) -> Generator[nn.Module]:
    """The network in evaluation mode without gradients; on leaving, every module has the mode it had before."""
    # DistributedDataParallel exchanges buffers at every call, so processes with unequal numbers of batches would hang.
    network = model.module if isinstance(model, DistributedDataParallel) else model
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        with torch.no_grad():
            yield network
    finally:
        for module, training in modes:
            module.training = training


def class_scores(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    *,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
) -> Float[Tensor, "n k"]:
    """The network's outputs (logits) for a batch, float32 on the CPU; `autocast` names a half precision or None."""
    place = torch.device(device)
    with torch.autocast(place.type, dtype=autocast, enabled=autocast is not None):
        scores = class_outputs(model(images.to(place, non_blocking=True))).logits
    return scores.float().cpu()
