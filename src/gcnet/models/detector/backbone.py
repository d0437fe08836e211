"""The backbone of a detector: its batch norms, and the feature pyramid (arXiv 1612.03144)."""

import re
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d

from gcnet.errors import UserError, unknown
from gcnet.models.detector.conventions import level_names


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


_STAGE = re.compile(r"layer\d+")
_PROBE = 256  # pixels; a power of two, so that strides come out whole


def build_pyramid(host: nn.Module, *, width: int, normalised: bool) -> tuple[BackboneWithFPN, tuple[int, ...]]:
    """Take over a network's layers up to its last stage, and put one map on each stage, the finest first.

    One more map, the coarsest one at every second place, has anchors only; a network with a single stage goes without,
    so that it sees no further than its stage and one 3x3 convolution.

    Args:
        host: a network whose children, called in order, are what it computes up to its last `layer<number>`.
        width: channels of every map.
        normalised: batch norms instead of biases.

    Returns:
        The backbone, images (N, 3, H, W) -> maps by name, and pixels to a cell of each map.

    Raises:
        UserError: the network has no such stages, or they do not get coarser by two.
    """
    stages = [name for name, _ in host.named_children() if _STAGE.fullmatch(name)]
    if not stages:
        raise UserError(f"a detector stands on a network with stages layer1, layer2, ..., found {type(host).__name__}")
    shapes = _stage_shapes(host, stages)
    strides = [_PROBE // side for _, side in shapes]
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise UserError(f"stages of a detector's network are each half as large as the one before, found {strides}")
    names = dict(zip(stages, level_names(len(stages)), strict=True))
    norm = nn.BatchNorm2d if normalised else None
    backbone = BackboneWithFPN(host, names, [channels for channels, _ in shapes], width, norm_layer=norm)
    if len(strides) == 1:
        backbone.fpn.extra_blocks = None
        return backbone, tuple(strides)
    return backbone, (*strides, 2 * strides[-1])


@torch.no_grad()
def _stage_shapes(host: nn.Module, stages: list[str]) -> list[tuple[int, int]]:
    """Channels and side of each stage's output, from a run without arithmetic on images of 256 pixels."""
    found: dict[str, tuple[int, int]] = {}
    handles = [
        getattr(host, name).register_forward_hook(
            lambda _, __, output, name=name: found.update({name: (output.shape[1], output.shape[3])})
        )
        for name in stages
    ]
    values = [*host.named_parameters(), *host.named_buffers()]
    state = {name: value.to("meta") for name, value in values}
    example = torch.empty(2, 3, _PROBE, _PROBE, device="meta", dtype=values[0][1].dtype)
    try:
        functional_call(host, state, (example,))
    finally:
        for handle in handles:
            handle.remove()
    return [found[name] for name in stages]
