"""Blocks beyond the paper without a bottleneck: gates by channel, by neighboring channels, or over all channels.

Most gates start at a half of the map or elsewhere away from it, as published. With `identity_init=True` the last layer
starts at zero and the gate is twice the sigmoid, so that the new block is the identity, bit for bit.
"""

import math

from torch import nn

from gcnet.blocks.options import parts, sigmoid_scale, whole
from gcnet.blocks.spec import EVERY_BLOCK, IDENTITY_INIT, BlockShape, BlockSpec, no_flops
from gcnet.errors import UserError
from gcnet.framework.block import Branch, ContextBlock
from gcnet.framework.channel_transforms import (
    ChannelAffine,
    ChannelFilter,
    GatedNorm,
    Gaussian,
    ResponseNorm,
    Standardise,
    StyleIntegration,
)
from gcnet.framework.context import AveragePool
from gcnet.framework.fusion import HardScale, Multiply, ResidualScale, ShiftedScale
from gcnet.framework.pointwise import Pointwise, zero
from gcnet.framework.pooling_contexts import NormPool, StylePool


def build_eca(
    channels: int, *, kernel_size: int | None = None, identity_init: bool = False, dims: int = 2
) -> ContextBlock:
    """Efficient channel attention (arXiv 1910.03151): average pooling, one filter over the channels, sigmoid scale.

    `y_i = x_i * sigmoid(w (*) mean_j x_j)`, zeros beyond the first and last channel, no bias. `kernel_size` k is odd;
    None for the odd number nearest to `(log2(C) + 1) / 2` (eq. 12). Parameters: `k`.
    """
    transform = ChannelFilter(
        channel_kernel_size(channels, kernel_size), initialize=nn.init.zeros_ if identity_init else None
    )
    return _scale_block(AveragePool(), transform, sigmoid_scale(identity_init), channels, dims)


def channel_kernel_size(channels: int, kernel_size: int | None) -> int:
    """The filter's length, by ECA's eq. 12 unless given; halfway between two odd numbers the larger, as in its code."""
    if kernel_size is None:
        return 2 * (int((math.log2(channels) + 1) / 2) // 2) + 1
    if whole("kernel_size", kernel_size) % 2 == 0:
        raise UserError(f"kernel_size must be odd, found {kernel_size}; the nearest is {kernel_size + 1}")
    return int(kernel_size)


def build_ese(channels: int, *, identity_init: bool = False, dims: int = 2) -> ContextBlock:
    """Effective squeeze-excitation (CenterMask, arXiv 1911.06667): average pooling, one linear layer, hard scale.

    `y_i = x_i * hardsigmoid(W mean_j x_j)`, `hardsigmoid(z) = min(max(z + 3, 0), 6) / 6`. With `identity_init` W and
    its bias start at zero and the gate is twice the hard sigmoid, up to 2; it still learns nothing where |z| > 3.
    Parameters: `C^2 + C`.
    """
    transform = Pointwise(channels, channels, initialize=zero if identity_init else None)
    return _scale_block(AveragePool(), transform, HardScale(doubled=identity_init), channels, dims)


def build_lct(channels: int, *, groups: int = 8, identity_init: bool = False, dims: int = 2) -> ContextBlock:
    """Linear context transform (arXiv 1909.03834): average pooling, normalised by groups of channels, sigmoid scale.

    `y_i = x_i * sigmoid(w_c a_c + b_c)`, `a = (m - mean_g m) / sqrt(var_g m + 1e-5)`, m the average of x over
    positions, g the group of c. w starts at 0 and b at 1, so all gates at sigmoid(1); with `identity_init` both at 0.
    We know of no code of the authors: start and number of groups are from other implementations. Parameters: `2C`.
    """
    affine = ChannelAffine(channels, weight=0.0, bias=0.0 if identity_init else 1.0)
    transform = nn.Sequential(Standardise(parts("groups", groups, channels, least=2)), affine)
    return _scale_block(AveragePool(), transform, sigmoid_scale(identity_init), channels, dims)


def build_gct(channels: int, *, learned: bool = False, dims: int = 2) -> ContextBlock:
    """Gaussian context transformer (Ruan et al., CVPR 2021): average pooling, standardised over channels, Gaussian.

    `y_i = x_i * exp(-z^2 / (2 c^2))`, `z = (m - mean_C m) / sqrt(var_C m + 1e-5)`, m the average of x over positions. c
    is 2 (the paper's B0), or with `learned` 1 + 3 sigmoid(theta), theta 0 at the start (B1). We know of no code of the
    authors: this form of B1 is that of iN8mare/GCT-Gaussian-Context-Transformer, and other copies compute
    `exp(-z^2 / 2 * c)`. Parameters: none, or 1.
    """
    transform = nn.Sequential(Standardise(), Gaussian(learned=learned))
    return _scale_block(AveragePool(), transform, Multiply(), channels, dims)


def build_gated_gct(channels: int, *, dims: int = 2) -> ContextBlock:
    """Gated channel transformation (arXiv 1909.11519): l2 norm, normalised over channels, residual tanh scale.

    `y_i = x_i * (1 + tanh(gamma_c n_c + beta_c))`, `n = e / sqrt(mean_C e^2 + 1e-5)`,
    `e_c = alpha_c sqrt(sum_j x_jc^2 + 1e-5)`. alpha is 1 and gamma and beta are 0 at the start: the identity. The paper
    puts it before convolutions. Parameters: `3C`.
    """
    return _scale_block(NormPool(eps=1e-5), GatedNorm(channels, eps=1e-5), ResidualScale(), channels, dims)


def build_grn(channels: int, *, dims: int = 2) -> ContextBlock:
    """Global response normalisation (ConvNeXt V2, arXiv 2301.00808, eq. 1-3): l2 norm, over its mean, residual scale.

    `y_i = x_i * (1 + gamma_c n_c) + beta_c`, `n = g / (mean_C g + 1e-6)`, `g_c = sqrt(sum_j x_jc^2)`. gamma and beta
    are 0 at the start: the identity. The paper puts it into the hidden layer of a block's MLP. Parameters: `2C`.
    """
    return _scale_block(NormPool(), ResponseNorm(channels, eps=1e-6), ShiftedScale(channels), channels, dims)


def build_srm(channels: int, *, identity_init: bool = False, dims: int = 2) -> ContextBlock:
    """Style-based recalibration (arXiv 1903.10829): mean and deviation, weighed by channel, batch norm, sigmoid scale.

    `y_i = x_i * sigmoid(BN(w1 m + w2 s))` with the mean m and the standard deviation s over positions. w1 and w2 are 0
    at the start, so all gates a half; with `identity_init` one. Batch normalisation of one value a channel and image
    needs at least two images while training. Parameters: `4C`.
    """
    return _scale_block(StylePool(), StyleIntegration(channels), sigmoid_scale(identity_init), channels, dims)


def _scale_block(context: nn.Module, transform: nn.Module, fusion: nn.Module, channels: int, dims: int) -> ContextBlock:
    return ContextBlock(context, {"scale": Branch(transform, fusion)}, channels=channels, dims=dims)


def filter_flops(shape: BlockShape, *, kernel_size: int | None = None) -> int:
    """2 C k."""
    return 2 * shape.channels * channel_kernel_size(shape.channels, kernel_size)


def _linear_flops(shape: BlockShape) -> int:
    """2 C^2."""
    return 2 * shape.channels**2


KERNEL_SIZE = "odd length of the filter; None for ECA's formula by the number of channels"

SPECS = {
    "eca": BlockSpec(
        build_eca,
        context="average pooling",
        transform="filter over channels",
        fusion="scale",
        source="ECA-Net, arXiv 1910.03151",
        flops=filter_flops,
        options={"kernel_size": KERNEL_SIZE, "identity_init": IDENTITY_INIT},
        placement=EVERY_BLOCK,
    ),
    "ese": BlockSpec(
        build_ese,
        context="average pooling",
        transform="linear",
        fusion="hard scale",
        source="CenterMask, arXiv 1911.06667",
        flops=_linear_flops,
        options={"identity_init": IDENTITY_INIT},
    ),
    "lct": BlockSpec(
        build_lct,
        context="average pooling",
        transform="norm over channel groups",
        fusion="scale",
        source="LCT, arXiv 1909.03834",
        flops=no_flops,
        options={"groups": "groups of at least 2 channels that are normalized", "identity_init": IDENTITY_INIT},
        placement=EVERY_BLOCK,
    ),
    "gct": BlockSpec(
        build_gct,
        context="average pooling",
        transform="Gaussian over channels",
        fusion="multiply",
        source="Ruan et al., CVPR 2021",
        flops=no_flops,
        options={"learned": "learn the width of the Gaussian"},
        placement=EVERY_BLOCK,
    ),
    "gated_gct": BlockSpec(
        build_gated_gct,
        context="l2 norm",
        transform="tanh over channels",
        fusion="scale by 1 + term",
        source="GCT, arXiv 1909.11519",
        flops=no_flops,
    ),
    "grn": BlockSpec(
        build_grn,
        context="l2 norm",
        transform="norm over channels",
        fusion="scale by 1 + term",
        source="ConvNeXt V2, arXiv 2301.00808",
        flops=no_flops,
    ),
    "srm": BlockSpec(
        build_srm,
        context="mean and deviation",
        transform="by channel, batch norm",
        fusion="scale",
        source="SRM, arXiv 1903.10829",
        flops=no_flops,
        options={"identity_init": IDENTITY_INIT},
        placement=EVERY_BLOCK,
    ),
}
