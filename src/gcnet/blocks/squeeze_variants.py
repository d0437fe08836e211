"""Squeeze-and-excitation with another squeeze: cosine components (FcaNet) or neighborhoods (GENet)."""

from typing import Literal

from torch import nn

from gcnet.blocks.options import check_choice, check_divides, check_integer, sigmoid_scale
from gcnet.blocks.paper import excitation, excitation_flops
from gcnet.blocks.spec import EVERY_BLOCK, IDENTITY_INIT, RATIO, BlockShape, BlockSpec
from gcnet.errors import UserError
from gcnet.framework.block import Branch, ContextBlock
from gcnet.framework.context import AveragePool
from gcnet.framework.pooling_contexts import TOP_FREQUENCIES, FrequencyPool, GatherPool, HalvingFilter, LocalAverage
from gcnet.framework.transform import BatchStandardization


def build_fca(
    channels: int,
    *,
    ratio: float = 16,
    frequencies: int = 16,
    grid: int = 7,
    identity_init: bool = False,
    dims: int = 2,
) -> ContextBlock:
    """Frequency channel attention: cosine components, bottleneck of SE, sigmoid scale.

    `y_i = x_i * sigmoid(W2 relu(W1 c))`, with c from `FrequencyPool`: each group of channels is projected on one
    discrete cosine on a grid to which the map is averaged first. The authors' grids are 56, 28, 14 and 7 in c2 to c5,
    the map sizes of 224-pixel images; the default is 7 in all, the grid of their frequency selection. Their linear
    layers have no biases. Parameters: `2CP + P + C`.

    Args:
        channels: C of the maps.
        ratio: reduction ratio r, at least 1: the bottleneck has P = channels/r channels.
        frequencies: number of groups of channels, each with its own cosine, up to 32; a divisor of `channels`.
        grid: positions along each axis, a multiple of 7.
        identity_init: initialize W2 to 0 and double the gate, so that the new block is the identity.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Raises:
        UserError: an invalid value, or one that does not fit `channels`.

    Reference:
        FcaNet, arXiv 2012.11879.
    """
    count = check_divides("frequencies", frequencies, channels, most=len(TOP_FREQUENCIES))
    if check_integer("grid", grid, 7) % 7:
        raise UserError(f"`grid` must be a multiple of 7, found {grid}; the nearest is {7 * round(grid / 7)}")
    context = FrequencyPool(count, grid=int(grid), dims=dims)
    branch = Branch(excitation(channels, ratio, identity_init), sigmoid_scale(identity_init))
    return ContextBlock(context, {"scale": branch}, channels=channels, dims=dims)


def build_ge(
    channels: int,
    *,
    extent: int = 0,
    gather: Literal["average", "depthwise"] = "average",
    excite: bool = False,
    ratio: float = 16,
    identity_init: bool = False,
    dims: int = 2,
) -> ContextBlock:
    """Gather-excite: a context of each neighborhood, sigmoid scale.

    `y_i = x_i * sigmoid(spread(excite(gather(x)))_i)`; `spread` is nearest-neighbor interpolation. The paper's
    GE-theta- (the default) averages and has no parameters, GE-theta gathers `depthwise`, GE-theta+ also excites. A
    global depthwise gather is refused: its kernel has the size of the map, which a block does not know.

    Parameters: none; depthwise `(3^dims + 2) C log2(e)`; exciting adds `2CP + P + C`.

    Args:
        channels: C of the maps.
        extent: e: average of 2e - 1 positions around every e-th along each axis (0: global), or log2(e) depthwise
            convolutions of size 3 and stride 2, with batch norm and ReLU (after the last only before exciting, as in
            the authors' RN50-GEPP).
        gather: "average", or "depthwise" convolutions.
        excite: add the bottleneck of SE.
        ratio: reduction ratio of that bottleneck, P = channels/ratio; ignored without `excite`.
        identity_init: initialize the last layer to 0 (gamma, without `excite`) and double the gate.
        dims: number of spatial axes: 1, 2 or 3.

    Returns:
        The block.

    Raises:
        UserError: an invalid value, or one that does not fit `channels`.

    Reference:
        GENet, arXiv 1810.12348.
    """
    extent = check_integer("extent", extent, 0)
    depthwise = check_choice("gather", gather, {"average": False, "depthwise": True})
    if identity_init and not depthwise and not excite:
        raise UserError(
            'identity_init needs parameters to initialize to zero: use gather="depthwise" or excite=True, or omit it'
        )
    bottleneck = excitation(channels, ratio, identity_init) if excite else nn.Identity()
    if depthwise:
        context = GatherPool(_depthwise(channels, extent, excite, identity_init, dims), bottleneck)
    else:
        context = GatherPool(LocalAverage(extent), bottleneck) if extent else AveragePool()
    branch = Branch(nn.Identity() if isinstance(context, GatherPool) else bottleneck, sigmoid_scale(identity_init))
    return ContextBlock(context, {"scale": branch}, channels=channels, dims=dims)


def _depthwise(channels: int, extent: int, excite: bool, identity_init: bool, dims: int) -> nn.Sequential:
    if extent < 2 or extent & (extent - 1):
        raise UserError(f"`extent` must be a power of two, at least 2, with a depthwise gather, found {extent}")
    layers: list[nn.Module] = []
    halvings = extent.bit_length() - 1
    for index in range(halvings):
        last = index == halvings - 1
        gamma = 0.0 if last and identity_init and not excite else 1.0
        layers += [HalvingFilter(channels, dims=dims), BatchStandardization(channels, gamma=gamma)]
        if excite or not last:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _fca_flops(shape: BlockShape, *, grid: int = 7) -> int:
    """2 g^2 C on a grid of g x g positions, and 4 C D."""
    return 2 * grid**2 * shape.channels + excitation_flops(shape)


def _ge_flops(shape: BlockShape, *, excite: bool = False) -> int:
    """4 C D with `excite`, else 0; of a context of the whole map (`extent` 0)."""
    return excitation_flops(shape) if excite else 0


SPECS = {
    "fca": BlockSpec(
        build_fca,
        context="cosine components",
        transform="bottleneck",
        fusion="scale",
        source="FcaNet, arXiv 2012.11879",
        flops=_fca_flops,
        options={
            "ratio": RATIO,
            "frequencies": f"number of groups of channels, each with its own cosine, up to {len(TOP_FREQUENCIES)}",
            "grid": "positions along each axis after averaging, a multiple of 7",
            "identity_init": IDENTITY_INIT,
        },
        placement=EVERY_BLOCK,
    ),
    "ge": BlockSpec(
        build_ge,
        context="global or local average",
        transform="none or bottleneck",
        fusion="scale",
        source="GENet, arXiv 1810.12348",
        flops=_ge_flops,
        options={
            "extent": "size of the neighborhood in positions; 0: the whole map",
            "gather": "average, or depthwise convolutions",
            "excite": "add SE's bottleneck",
            "ratio": RATIO + " (with excite)",
            "identity_init": IDENTITY_INIT,
        },
        placement=EVERY_BLOCK,
    ),
}
