"""Blocks of other libraries, which are imported where they are built."""

from torch import nn


def build_mmcv_context(channels: int, *, ratio: float = 16) -> nn.Module:
    """The `gc` of mmcv: attention pooling and addition."""
    from mmcv.cnn.bricks.context_block import ContextBlock

    return ContextBlock(channels, 1 / ratio)


def build_timm_context(channels: int, *, ratio: float = 16) -> nn.Module:
    """The `gc` of timm, set to the paper's addition in place of its own sigmoid gate."""
    from timm.layers import GlobalContext

    return GlobalContext(channels, fuse_add=True, fuse_scale=False, rd_ratio=1 / ratio)


def build_mmcv_non_local(channels: int, mode: str) -> nn.Module:
    """The non-local block of mmcv; modes are our names without `nl_`."""
    from mmcv.cnn.bricks.non_local import NonLocal2d

    return NonLocal2d(channels, mode=mode)
