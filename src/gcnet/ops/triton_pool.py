"""Attention pooling on a GPU by Triton kernels that read the map once; Triton itself is imported by the first call."""

import torch
from jaxtyping import Float
from torch import Tensor

from gcnet.ops.triton_check import DTYPES, usable

MOST_CHANNELS = 2048  # of a position, which a program holds in registers


def can_pool(x: Tensor) -> bool:
    """Whether `attention_pool_triton` supports `x` (N, C, *S).

    The kernels must be usable (`gcnet.ops.triton_check`), the map on a GPU, and its dtype and channels supported. ONNX
    has no such operator, so the result is False during ONNX export.
    """
    return _suits(x) and usable("attention pooling", x.device, x.dtype)


def attention_pool_triton(
    x: Float[Tensor, "n c *s"], weight: Float[Tensor, "*one c"], bias: Float[Tensor, "*one"]
) -> Float[Tensor, "n c"]:
    """Attention pooling by Triton kernels, for maps that `can_pool` accepts.

    Contiguous and channels-last maps are read without a copy; a map whose spatial axes cannot be flattened in place is
    copied first. Sums are in float32. Saved for the backward pass: the arguments, the context and two numbers per
    sample. The bias cancels in the softmax: it is not read, and its gradient is exactly zero. Second derivatives come
    from plain operations. `FlopCounterMode` counts the operator if it is opened after the first call, which registers
    the formula.

    Args:
        x: feature map.
        weight: key weight, any shape with C elements.
        bias: key bias.

    Returns:
        The context, in the dtype of `x`.

    Raises:
        ValueError: unsupported dtype or number of channels, or a weight with another number of channels.

    Reference:
        GCNet, arXiv 1904.11492, eq. 4.
    """
    if not _fits(x) or weight.numel() != x.shape[1]:
        raise ValueError(
            f"attention pooling by Triton takes maps in {', '.join(map(str, DTYPES))} of at most {MOST_CHANNELS} "
            f"channels, here {weight.numel()} as the weight has; found {x.dtype} of shape {tuple(x.shape)}"
        )
    from gcnet.ops.triton_kernels import pool

    context, _, _ = pool(x.flatten(2), weight.flatten().contiguous(), bias)
    return context.to(x.dtype)


def _suits(x: Tensor) -> bool:
    return x.is_cuda and _fits(x) and not torch.onnx.is_in_onnx_export()


def _fits(x: Tensor) -> bool:
    return x.dtype in DTYPES and x.shape[1] <= MOST_CHANNELS
