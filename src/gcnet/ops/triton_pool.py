"""Attention pooling on a GPU by Triton kernels that read the map once; Triton itself is imported by the first call.

The environment variable GCNET_TRITON=0 switches them off.
"""

import os
from importlib.util import find_spec
from shutil import which

import torch
from jaxtyping import Float
from torch import Tensor

from gcnet.ops.triton_check import is_right

MOST_CHANNELS = 2048  # of a position, which a program holds in registers
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ALLOWED = os.environ.get("GCNET_TRITON", "1").lower() not in ("0", "false", "no", "off")
# Triton compiles its link to the driver on the spot, with a C compiler of the machine.
READY = ALLOWED and find_spec("triton") is not None and any((os.environ.get("CC"), which("gcc"), which("clang")))


def can_pool(x: Tensor) -> bool:
    """Whether `attention_pool_triton` is to be used for this map (N, C, *S).

    Triton must be ready and right (see `is_right`), the map on a GPU, its dtype and C such as the kernels take. ONNX
    has no such operator, so the answer is no while exporting to it.
    """
    return READY and _suits(x) and is_right(x.device, x.dtype)


def attention_pool_triton(
    x: Float[Tensor, "n c *s"], weight: Float[Tensor, "*one c"], bias: Float[Tensor, "*one"]
) -> Float[Tensor, "n c"]:
    """`sum_j softmax_j(w . x_j + b) x_j` (arXiv 1904.11492, eq. 4), for maps that `can_pool` accepts.

    Contiguous and channels-last maps are read where they lie; one whose spatial axes are not in line is copied first.
    Sums are in float32, the context is in the dtype of `x`. Kept for the gradient are the arguments, the context and
    two numbers a sample. The bias cancels: it is not read, and its gradient is exactly zero. A second derivative raises
    RuntimeError. `FlopCounterMode` counts it if opened after the first call, which brings the formula.

    Raises:
        ValueError: the map has a dtype or a number of channels that the kernels or the weight are not made for.
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
