"""Channel-attention blocks beyond the paper without a bottleneck.

Most gates are initialized away from one, as published. With `identity_init=True` the last layer is initialized to zero
and the gate is twice the sigmoid, so that a new block is exactly the identity.
"""

import math

from torch import nn

from gcnet.blocks.options import check_divides, check_integer, sigmoid_scale
from gcnet.blocks.spec import EVERY_BLOCK, IDENTITY_INIT, BlockShape, BlockSpec, no_flops
from gcnet.errors import UserError
from gcnet.framework.block import Branch, ContextBlock
from gcnet.framework.channel_transforms import (
    ChannelAffine,
    ChannelFilter,
    GatedNorm,
    Gaussian,
    ResponseNorm,
    Standardize,
    StyleIntegration,
)
from gcnet.framework.context import AveragePool
from gcnet.framework.fusion import HardScale, Multiply, ResidualScale, ShiftedScale
from gcnet.framework.pointwise import Pointwise, zero
from gcnet.framework.pooling_contexts import NormPool, StylePool


def build_eca(
    channels: int, *, kernel_size: int | None = None, identity_init: bool = False, dims: int = 2
) -> ContextBlock:
    """Efficient channel attention: average pooling, one filter over the channels, sigmoid scale.

    `y_i = x_i * sigmoid(w (*) mean_j x_j)`, zero-padded, no bias. Parameters: `k`.

    Args:
        channels: C of the maps.
        kernel_size: k, odd; None for the odd number nearest to `(log2(C) + 1) / 2` (eq. 12).
        identity_init: initialize so that the new block is the identity, instead of as published.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Raises:
        UserError: an invalid value, or one that does not fit `channels`.

    Reference:
        arXiv 1910.03151.
    """
    transform = ChannelFilter(
        channel_kernel_size(channels, kernel_size), initialize=nn.init.zeros_ if identity_init else None
    )
    return _scale_block(AveragePool(), transform, sigmoid_scale(identity_init), channels, dims)


def channel_kernel_size(channels: int, kernel_size: int | None) -> int:
    """Return the length of a filter over channels: `kernel_size`, or ECA's eq. 12 (ties: the larger, as in its code).

    Args:
        channels: C of the maps.
        kernel_size: an odd number, or None for eq. 12.

    Raises:
        UserError: an even number.
    """
    if kernel_size is None:
        return 2 * (int((math.log2(channels) + 1) / 2) // 2) + 1
    if check_integer("kernel_size", kernel_size) % 2 == 0:
        raise UserError(f"`kernel_size` must be odd, found {kernel_size}; the nearest is {kernel_size + 1}")
    return int(kernel_size)


def build_ese(channels: int, *, identity_init: bool = False, dims: int = 2) -> ContextBlock:
    """Effective squeeze-excitation: average pooling, one linear layer, hard-sigmoid scale.

    `y_i = x_i * hardsigmoid(W mean_j x_j)`, `hardsigmoid(z) = min(max(z + 3, 0), 6) / 6`. Parameters: `C^2 + C`.

    Args:
        channels: C of the maps.
        identity_init: initialize W and its bias to zero and double the gate, up to 2; its gradient is zero where |z| >
            3.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Reference:
        CenterMask, arXiv 1911.06667.
    """
    transform = Pointwise(channels, channels, initialize=zero if identity_init else None)
    return _scale_block(AveragePool(), transform, HardScale(doubled=identity_init), channels, dims)


def build_lct(channels: int, *, groups: int = 8, identity_init: bool = False, dims: int = 2) -> ContextBlock:
    """Linear context transform: average pooling, normalization by groups of channels, sigmoid scale.

    `y_i = x_i * sigmoid(w_c a_c + b_c)`, `a = (m - mean_g m) / sqrt(var_g m + 1e-5)`, m the average of x over
    positions, g the group of c. w is initialized to 0 and b to 1, so all gates to sigmoid(1). We know of no code of the
    authors: initialization and number of groups are from other implementations. Parameters: `2C`.

    Args:
        channels: C of the maps.
        groups: groups of at least 2 channels that are normalized; a divisor of `channels`.
        identity_init: initialize so that the new block is the identity, instead of as published.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Raises:
        UserError: an invalid value, or one that does not fit `channels`.

    Reference:
        arXiv 1909.03834.
    """
    affine = ChannelAffine(channels, weight=0.0, bias=0.0 if identity_init else 1.0)
    transform = nn.Sequential(Standardize(check_divides("groups", groups, channels, least=2)), affine)
    return _scale_block(AveragePool(), transform, sigmoid_scale(identity_init), channels, dims)


def build_gct(channels: int, *, learned: bool = False, dims: int = 2) -> ContextBlock:
    """Gaussian context transformer: average pooling, standardization over channels, Gaussian gate.

    `y_i = x_i * exp(-z^2 / (2 c^2))`, `z = (m - mean_C m) / sqrt(var_C m + 1e-5)`, m the average of x over positions.
    No code of the authors is known to us: the learned form is from iN8mare/GCT-Gaussian-Context-Transformer, and other
    copies compute `exp(-z^2 / 2 * c)`. Parameters: none, or 1.

    Args:
        channels: C of the maps.
        learned: c is 1 + 3 sigmoid(theta), theta initially 0 (B1 in the paper); else c is 2 (B0).
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Reference:
        Ruan et al., CVPR 2021.
    """
    transform = nn.Sequential(Standardize(), Gaussian(learned=learned))
    return _scale_block(AveragePool(), transform, Multiply(), channels, dims)


def build_gated_gct(channels: int, *, dims: int = 2) -> ContextBlock:
    """Gated channel transformation: l2 norm, normalization over channels, residual tanh scale.

    `y_i = x_i * (1 + tanh(gamma_c n_c + beta_c))`, `n = e / sqrt(mean_C e^2 + 1e-5)`, `e_c = alpha_c sqrt(sum_j x_jc^2
    + 1e-5)`. alpha is initialized to 1, gamma and beta to 0: the identity. The paper places it before convolutions.
    Parameters: `3C`.

    Args:
        channels: C of the maps.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Reference:
        arXiv 1909.11519.
    """
    return _scale_block(NormPool(eps=1e-5), GatedNorm(channels, eps=1e-5), ResidualScale(), channels, dims)


def build_grn(channels: int, *, dims: int = 2) -> ContextBlock:
    """Global response normalization: l2 norm, divided by its mean over channels, residual scale.

    `y_i = x_i * (1 + gamma_c n_c) + beta_c`, `n = g / (mean_C g + 1e-6)`, `g_c = sqrt(sum_j x_jc^2)`. gamma and beta
    are initialized to 0: the identity. The paper places it in the hidden layer of an MLP. Parameters: `2C`.

    Args:
        channels: C of the maps.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Reference:
        ConvNeXt V2, arXiv 2301.00808, eq. 1-3.
    """
    return _scale_block(NormPool(), ResponseNorm(channels, eps=1e-6), ShiftedScale(channels), channels, dims)


def build_srm(channels: int, *, identity_init: bool = False, dims: int = 2) -> ContextBlock:
    """Style-based recalibration: mean and standard deviation, weighted per channel, batch norm, sigmoid scale.

    `y_i = x_i * sigmoid(BN(w1 m + w2 s))` with the mean m and the standard deviation s over positions. w1 and w2 are
    initialized to 0, so all gates to a half. Training needs batches of at least two images, for the batch norm of one
    value per channel and image. Parameters: `4C`.

    Args:
        channels: C of the maps.
        identity_init: initialize so that the new block is the identity, instead of as published.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Reference:
        arXiv 1903.10829.
    """
    return _scale_block(StylePool(), StyleIntegration(channels), sigmoid_scale(identity_init), channels, dims)


def _scale_block(context: nn.Module, transform: nn.Module, fusion: nn.Module, channels: int, dims: int) -> ContextBlock:
    return ContextBlock(context, {"scale": Branch(transform, fusion)}, channels=channels, dims=dims)


def filter_flops(shape: BlockShape, *, kernel_size: int | None = None) -> int:
    """Return the FLOPs of a filter over channels, 2 C k.

    Args:
        shape: feature map of the block.
        kernel_size: k; None for ECA's formula.
    """
    return 2 * shape.channels * channel_kernel_size(shape.channels, kernel_size)


def _linear_flops(shape: BlockShape) -> int:
    """2 C^2."""
    return 2 * shape.channels**2


KERNEL_SIZE = "odd length of the filter; None: ECA's formula from the number of channels"

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
        options={"groups": "number of normalized groups, each of at least 2 channels", "identity_init": IDENTITY_INIT},
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
