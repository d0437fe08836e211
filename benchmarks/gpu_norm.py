"""Batch norm, term, shortcut and ReLU on a GPU: plain operations, torch.compile, Triton kernels and a copy."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu_case import Case, Precision
from benchmarks.gpu_compiled import compiled, forget_compiled
from benchmarks.gpu_pooling import DTYPES, copy_of
from benchmarks.turns import Work
from gcnet.ops.norm_add_relu import can_norm_add_relu


def norm_cases(shape: tuple[int, ...], precision: Precision, device: torch.device) -> Iterator[Case]:
    """Forward and backward for one map; the statistics are those of an earlier pass."""
    forget_compiled()
    torch.manual_seed(0)
    dtype = DTYPES[precision.dtype]
    z, shortcut, grad = (
        torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=precision.memory_format)
        for _ in range(3)
    )
    alpha, mean = (torch.randn(shape[1], device=device) for _ in range(2))
    shift = torch.randn(shape[:2], device=device)
    out = _output(z, shortcut, alpha, shift)
    forward, gradients = compiled(_output, device), compiled(_gradients, device)
    works: dict[str, dict[str, Work]] = {
        "norm_add_relu_forward": {
            "plain": lambda: _output(z, shortcut, alpha, shift),
            "compiled": lambda: forward(z, shortcut, alpha, shift),
        },
        "norm_add_relu_backward": {
            "plain": lambda: _gradients(grad, out, z, alpha, mean),
            "compiled": lambda: gradients(grad, out, z, alpha, mean),
        },
    }
    if can_norm_add_relu(z, shortcut, alpha):
        from gcnet.ops import triton_norm_kernels as kernels

        def backward() -> Tensor:
            masked, along, total = kernels.gradient_sums(grad, out, z, mean)
            return kernels.input_gradient(masked, z, alpha, along.sum(0), total.sum(0))

        works["norm_add_relu_forward"]["triton"] = lambda: kernels.output(z, shortcut, alpha, shift)
        works["norm_add_relu_backward"]["triton"] = backward
    size = z.numel() * z.element_size()
    for (task, contestants), maps in zip(works.items(), (3, 7), strict=True):
        least = dict.fromkeys(contestants, maps * size) | {"copy": 2 * size}
        yield Case(task, precision, shape, contestants | {"copy": copy_of(z)}, "plain", least)


def _wide(vector: Tensor, z: Tensor) -> Tensor:
    return vector[..., None, None].to(z.dtype)


def _output(z: Tensor, shortcut: Tensor, alpha: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(_wide(shift, z), z, _wide(alpha, z)).add_(shortcut).relu_()


def _gradients(grad: Tensor, out: Tensor, z: Tensor, alpha: Tensor, mean: Tensor) -> Tensor:
    masked = torch.ops.aten.threshold_backward(grad, out, 0)
    along = (masked * (z - _wide(mean, z))).sum((0, 2, 3), dtype=torch.float32)
    total = masked.sum((0, 2, 3), dtype=torch.float32)
    return torch.addcmul(_wide(total, z), z, _wide(along, z)).addcmul_(masked, _wide(alpha, z))
