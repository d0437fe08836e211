"""Squeeze-and-excitation with another squeeze: cosine components (FcaNet) or neighborhoods of the map (GENet)."""

from typing import Literal

from torch import nn

from gcnet.blocks.options import choose, parts, sigmoid_scale, whole
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
    """Frequency channel attention (FcaNet, arXiv 2012.11879): cosine components, SE's bottleneck, sigmoid scale.

    `y_i = x_i * sigmoid(W2 relu(W1 c))`, with c from `FrequencyPool`: channels in as many groups as `frequencies`, each
    summed against one discrete cosine on a grid of `grid` x `grid` positions, to which the map is averaged first. The
    authors' grid is 56, 28, 14 and 7 in c2 to c5, the size of the maps of an image of 224 pixels; by default it is 7 in
    all, the space in which they chose the frequencies. Their linear layers have no biases. With `identity_init` W2
    starts at 0 and the gate is twice the sigmoid. Parameters with P = channels/ratio: `2CP + P + C`.
    """
    count = parts("frequencies", frequencies, channels, most=len(TOP_FREQUENCIES))
    if whole("grid", grid, 7) % 7:
        raise UserError(f"grid must be a multiple of 7, found {grid}; the nearest is {7 * round(grid / 7)}")
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
    """Gather-excite (GENet, arXiv 1810.12348): a context from around each position, sigmoid scale.

    `y_i = x_i * sigmoid(spread(excite(gather(x)))_i)`; `spread` takes the nearest gathered position. The
    paper's variants: GE-theta- (the default) averages and has no parameters, GE-theta gathers `depthwise`, GE-theta+
    excites besides.

    `extent` e says from how far: the average of 2e - 1 positions around every e-th along each axis (0: of the whole
    map), or log2(e) convolutions by channel of 3 positions with stride 2, batch norm after each and ReLU between, and
    ReLU at the end before exciting (as in the authors' RN50-GEPP). Their global depthwise gather is a kernel of the
    map's size, which a block does not know: it is refused. Exciting is SE's bottleneck; only there `ratio` counts. With
    `identity_init` the last layer starts at 0 (gamma, without exciting) and the gate is twice the sigmoid.

    Parameters: none; depthwise `(3^dims + 2) C log2(e)`; exciting adds `2CP + P + C` with P = channels/ratio.
    """
    extent = whole("extent", extent, 0)
    depthwise = choose("gather", gather, {"average": False, "depthwise": True})
    if identity_init and not depthwise and not excite:
        raise UserError("identity_init needs parameters that start at zero: gather depthwise, excite, or leave it out")
    bottleneck = excitation(channels, ratio, identity_init) if excite else nn.Identity()
    if depthwise:
        context = GatherPool(_depthwise(channels, extent, excite, identity_init, dims), bottleneck)
    else:
        context = GatherPool(LocalAverage(extent), bottleneck) if extent else AveragePool()
    branch = Branch(nn.Identity() if isinstance(context, GatherPool) else bottleneck, sigmoid_scale(identity_init))
    return ContextBlock(context, {"scale": branch}, channels=channels, dims=dims)


def _depthwise(channels: int, extent: int, excite: bool, identity_init: bool, dims: int) -> nn.Sequential:
    if extent < 2 or extent & (extent - 1):
        raise UserError(f"extent must be a power of two from 2 up where the gather is depthwise, found {extent}")
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
            "frequencies": f"groups of channels, each with a cosine of its own, up to {len(TOP_FREQUENCIES)}",
            "grid": "positions along each axis that the map is averaged to, a multiple of 7",
            "identity_init": IDENTITY_INIT,
        },
        placement=EVERY_BLOCK,
    ),
    "ge": BlockSpec(
        build_ge,
        context="average, of all or around",
        transform="none or bottleneck",
        fusion="scale",
        source="GENet, arXiv 1810.12348",
        flops=_ge_flops,
        options={
            "extent": "how far to gather from, in positions; 0: the whole map",
            "gather": "average, or depthwise convolutions",
            "excite": "add SE's bottleneck",
            "ratio": RATIO + ", with excite",
            "identity_init": IDENTITY_INIT,
        },
        placement=EVERY_BLOCK,
    ),
}
