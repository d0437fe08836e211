"""The paper's framework: a block is a context model, then transforms and fusions, each a part that can be swapped."""

from gcnet.framework.attending import Disentangled, MultiHeadPool, SlotPool, WhitenedAffinity
from gcnet.framework.block import Branch, ContextBlock
from gcnet.framework.channel import (
    ChannelAffine,
    ChannelFilter,
    GatedNorm,
    Gaussian,
    ResponseNorm,
    Standardise,
    StyleIntegration,
)
from gcnet.framework.context import (
    AttentionPool,
    AveragePool,
    ConcatenationAffinity,
    DotProductAffinity,
    NonLocal,
    SoftmaxAffinity,
    SubSample,
)
from gcnet.framework.fusion import Add, Fusion, Scale
from gcnet.framework.gate import Distribute, DoubledScale, HardScale, Multiply, ResidualScale, ShiftedScale
from gcnet.framework.gather import GatherPool, HalvingFilter, LocalAverage
from gcnet.framework.pointwise import Pointwise
from gcnet.framework.pooling import FrequencyPool, NormPool, StylePool
from gcnet.framework.transform import BatchStandardization, Bottleneck, ChannelLayerNorm

__all__ = [
    "Add",
    "AttentionPool",
    "AveragePool",
    "BatchStandardization",
    "Bottleneck",
    "Branch",
    "ChannelAffine",
    "ChannelFilter",
    "ChannelLayerNorm",
    "ConcatenationAffinity",
    "ContextBlock",
    "Disentangled",
    "Distribute",
    "DotProductAffinity",
    "DoubledScale",
    "FrequencyPool",
    "Fusion",
    "GatedNorm",
    "GatherPool",
    "Gaussian",
    "HalvingFilter",
    "HardScale",
    "LocalAverage",
    "MultiHeadPool",
    "Multiply",
    "NonLocal",
    "NormPool",
    "Pointwise",
    "ResidualScale",
    "ResponseNorm",
    "Scale",
    "ShiftedScale",
    "SlotPool",
    "SoftmaxAffinity",
    "Standardise",
    "StyleIntegration",
    "StylePool",
    "SubSample",
    "WhitenedAffinity",
]
