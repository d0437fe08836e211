"""The paper's framework: a block is a context model, then transforms and fusions, each a part that can be swapped."""

from gcnet.framework.attention_contexts import Disentangled, MultiHeadPool, SlotPool, WhitenedAffinity
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
from gcnet.framework.context import (
    AttentionPool,
    AveragePool,
    ConcatenationAffinity,
    DotProductAffinity,
    NonLocal,
    SoftmaxAffinity,
    SubSample,
)
from gcnet.framework.fusion import (
    Add,
    Distribute,
    DoubledScale,
    Fusion,
    HardScale,
    Multiply,
    ResidualScale,
    Scale,
    ShiftedScale,
)
from gcnet.framework.pointwise import Pointwise
from gcnet.framework.pooling_contexts import FrequencyPool, GatherPool, HalvingFilter, LocalAverage, NormPool, StylePool
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
    "Standardize",
    "StyleIntegration",
    "StylePool",
    "SubSample",
    "WhitenedAffinity",
]
