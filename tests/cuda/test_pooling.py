"""Attention pooling, by Triton on a GPU, against its definition in float64, and the check before its first use."""

import pytest
import torch
from torch import Tensor, nn

from cuda.closeness import assert_near_float64
from gcnet.ops import triton_check
from gcnet.ops.attention_pool import attention_pool
from gcnet.ops.triton_check import has_triton
from gcnet.ops.triton_pool import can_pool

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


class Pool(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels) * channels**-0.5)
        self.bias = nn.Parameter(torch.randn(()))

    def forward(self, x: Tensor) -> Tensor:
        return attention_pool(x.flatten(2), self.weight, self.bias)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bf16", "fp16"])
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (3, 64, 14, 14), (2, 256, 31, 17), (2, 2048, 7, 7)], ids=str)
def test_contexts_and_gradients_are_near_float64(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, device: torch.device
) -> None:
    assert_near_float64(Pool(shape[1]), torch.randn(shape).to(dtype), device, layout)


@pytest.mark.cuda
@needs_gpu
@pytest.mark.skipif(not has_triton(), reason="needs Triton and a C compiler")
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bf16", "fp16"])
def test_triton_passes_its_check_and_is_used(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_check, "_results", {})
    assert can_pool(torch.zeros(1, 3, 5, device="cuda", dtype=dtype))
