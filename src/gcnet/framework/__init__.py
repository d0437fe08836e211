"""The paper's framework: a block is a context model, then transforms and fusions, each a part that can be swapped."""

from gcnet.framework.block import Branch, ContextBlock
from gcnet.framework.context import (
    AttentionPool,
    AveragePool,
    ConcatenationAffinity,
    DotProductAffinity,
    NonLocal,
    SoftmaxAffinity,
    SubSample,
)
from gcnet.framework.fusion import Add, Scale
from gcnet.framework.pointwise import Pointwise
from gcnet.framework.transform import BatchNorm, Bottleneck, ChannelLayerNorm

__all__ = [
    "Add",
    "AttentionPool",
    "AveragePool",
    "BatchNorm",
    "Bottleneck",
    "Branch",
    "ChannelLayerNorm",
    "ConcatenationAffinity",
    "ContextBlock",
    "DotProductAffinity",
    "NonLocal",
    "Pointwise",
    "Scale",
    "SoftmaxAffinity",
    "SubSample",
]
