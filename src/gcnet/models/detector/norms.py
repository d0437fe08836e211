"""Normalisation of a detector's backbone: statistics that stay, or are those of the batch."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from gcnet.errors import unknown


class FixedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics it was loaded with, its scale and shift trained: the papers' fixBN."""

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


NORMS: Mapping[str, Callable[..., nn.Module]] = {
    "fixed": FixedBatchNorm2d,
    "frozen": FrozenBatchNorm2d,
    "batch": nn.BatchNorm2d,
    "sync": nn.BatchNorm2d,  # what `nn.SyncBatchNorm.convert_sync_batchnorm` takes over for training on several GPUs
}


def set_norms(model: nn.Module, kind: str, *, eps: float) -> None:
    """Replace every `BatchNorm2d` of a network in place by one of `NORMS`, with its weights and statistics.

    Args:
        model: the network.
        kind: "fixed" (statistics stay, scale and shift are trained), "frozen" (nothing is trained), "batch", or "sync"
            (here as "batch"; training on GPUs makes them synchronised).
        eps: added to the variances.

    Raises:
        UserError: an unknown kind.
    """
    if kind not in NORMS:
        raise unknown("norm", kind, NORMS)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, _converted(child, NORMS[kind](child.num_features, eps=eps)))


@torch.no_grad()
def _converted(old: nn.BatchNorm2d, new: nn.Module) -> nn.Module:
    values = old.state_dict()
    for name, tensor in new.state_dict().items():
        tensor.copy_(values[name])
    return new.to(old.weight.device).train(old.training)
