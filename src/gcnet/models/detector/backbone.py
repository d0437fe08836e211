"""Backbone of a detector: batch norms, deformable convolutions and the feature pyramid."""

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d, deform_conv2d

from gcnet.errors import UserError, unknown
from gcnet.framework.fixed_batch_norm import FixedBatchNorm2d
from gcnet.models.detector.conventions import level_names

NORMS: Mapping[str, Callable[..., nn.Module]] = {
    "eval_stats": FixedBatchNorm2d,
    "frozen": FrozenBatchNorm2d,
    "batch": nn.BatchNorm2d,
    "sync": nn.BatchNorm2d,  # converted by `nn.SyncBatchNorm.convert_sync_batchnorm` for training on several GPUs
}


def set_norms(model: nn.Module, kind: str, *, eps: float) -> None:
    """Replace every `BatchNorm2d` of a network in place by one of `NORMS`, with the same weights and statistics.

    Args:
        model: the network.
        kind: "eval_stats" (running statistics, trainable scale and shift), "frozen" (nothing is trained), "batch", or
            "sync" (like "batch" here; training on several GPUs synchronizes them).
        eps: added to the variances, 0 or more.

    Raises:
        UserError: unknown `kind`.
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
_PROBE_SIZE = 256  # pixels; a power of two, so that strides are whole numbers


def build_pyramid(classifier: nn.Module, *, channels: int, batch_norm: bool) -> tuple[BackboneWithFPN, tuple[int, ...]]:
    """Build a feature pyramid on the stages of a classifier, with its layers.

    One extra level, the coarsest map at every second position, has anchors only. A network with a single stage has no
    extra level, so that its receptive field grows by one 3x3 convolution only.

    Args:
        classifier: a network whose children, called in order, compute the features up to its last `layer<number>`.
        channels: channels of every level.
        batch_norm: batch norms instead of biases in the pyramid's convolutions.

    Returns:
        The backbone, images (N, 3, H, W) -> maps (N, channels, H', W') by level name, the finest first; and the stride
        of each level in pixels.

    Raises:
        UserError: the network has no such stages, or their strides do not double.

    Reference:
        Feature pyramid networks, arXiv 1612.03144.
    """
    stages = [name for name, _ in classifier.named_children() if _STAGE.fullmatch(name)]
    if not stages:
        raise UserError(
            f"a detector's backbone must have stages layer1, layer2, ..., found {type(classifier).__name__}"
        )
    shapes = _stage_shapes(classifier, stages)
    strides = [_PROBE_SIZE // side for _, side in shapes]
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise UserError(f"the stride of a detector's backbone must double from stage to stage, found strides {strides}")
    names = dict(zip(stages, level_names(len(stages)), strict=True))
    norm = nn.BatchNorm2d if batch_norm else None
    backbone = BackboneWithFPN(classifier, names, [width for width, _ in shapes], channels, norm_layer=norm)
    if len(strides) == 1:
        backbone.fpn.extra_blocks = None
        return backbone, tuple(strides)
    return backbone, (*strides, 2 * strides[-1])


@torch.no_grad()
def _stage_shapes(classifier: nn.Module, stages: list[str]) -> list[tuple[int, int]]:
    """Channels and side of each stage's output for square images of `_PROBE_SIZE`, from a run on the meta device."""
    shapes: dict[str, tuple[int, int]] = {}
    handles = [
        getattr(classifier, name).register_forward_hook(
            lambda _, __, output, name=name: shapes.update({name: (output.shape[1], output.shape[3])})
        )
        for name in stages
    ]
    values = [*classifier.named_parameters(), *classifier.named_buffers()]
    state = {name: value.to("meta") for name, value in values}
    example = torch.empty(2, 3, _PROBE_SIZE, _PROBE_SIZE, device="meta", dtype=values[0][1].dtype)
    try:
        functional_call(classifier, state, (example,))
    finally:
        for handle in handles:
            handle.remove()
    return [shapes[name] for name in stages]


class DeformableConv2d(nn.Conv2d):
    """Deformable convolution: `y(p) = sum_k w_k x(p + p_k + dp_k(p))`, dp a convolution of x (arXiv 1703.06211, eq. 2).

    Keys are `weight`, `bias` and `conv_offset.*`. Offsets start at zero, where the layer equals the convolution it
    replaces. One group of offsets serves all channels.

    Args:
        like: the convolution to copy shape, stride, padding, dilation, groups and weights from.
    """

    def __init__(self, like: nn.Conv2d) -> None:
        same: Any = {name: getattr(like, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        same |= {"device": like.weight.device, "dtype": like.weight.dtype}
        super().__init__(like.in_channels, like.out_channels, groups=like.groups, bias=like.bias is not None, **same)
        self.load_state_dict(like.state_dict())
        self.conv_offset = nn.Conv2d(like.in_channels, 2 * self.weight[0, 0].numel(), **same)
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c_out h_out w_out"]:
        offsets = self.conv_offset(input)  # (N, 2 K, H', W'): dy and dx of each of K samples
        geometry: Any = (self.stride, self.padding, self.dilation)
        # torchvision has no bfloat16 kernel and does not cast under autocast.
        precise = torch.promote_types(offsets.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(precise)
        sampled = deform_conv2d(input.to(precise), offsets.to(precise), self.weight.to(precise), bias, *geometry)
        return sampled.to(offsets.dtype)


@torch.no_grad()
def make_deformable(model: nn.Module, stages: tuple[str, ...] = ("layer2", "layer3", "layer4")) -> int:
    """Replace `conv2` in every bottleneck of the given stages by a `DeformableConv2d`, in place.

    Args:
        model: a residual network.
        stages: names of its stages; by default c3 to c5.

    Returns:
        Number of replaced convolutions.

    Raises:
        UserError: there are no bottlenecks in these stages.
    """
    count = 0
    for stage in stages:
        blocks: Any = getattr(model, stage, nn.Sequential())
        for block in blocks:
            if hasattr(block, "conv3"):
                block.conv2 = DeformableConv2d(block.conv2)
                count += 1
    if not count:
        raise UserError(
            f"deformable convolutions replace conv2 of bottlenecks, but {type(model).__name__} has none in "
            f"{', '.join(stages)}"
        )
    return count
