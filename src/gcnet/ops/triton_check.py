"""Checks the Triton kernels against plain PyTorch, once per device and dtype before first use."""

import subprocess
import warnings

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

# The largest difference from float64, as a share of the largest value.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3}
_SHAPE = (2, 48, 7, 37)
_results: dict[tuple[torch.device, torch.dtype], bool] = {}


def is_right(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels are correct for maps of this dtype on this device.

    The first call compares the context and the gradients of a small map, contiguous and channels-last, with float64. If
    one differs by more than `TOLERANCE` or a kernel does not compile, a RuntimeWarning is issued once, and the kernels
    are disabled for every device and dtype of the process.

    Args:
        device: of the maps.
        dtype: of the maps.
    """
    if (device, dtype) not in _results:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return True  # no comparison is possible during graph capture; earlier runs were compared
        _results[device, dtype] = all(_results.values()) and _is_right(device, dtype)
    return _results[device, dtype]


# For torch.compile, equal to `torch.compiler.assume_constant_result`, without importing the compiler.
is_right._dynamo_marked_constant = True  # ty: ignore[missing-attribute]


def _is_right(device: torch.device, dtype: torch.dtype) -> bool:
    try:
        # The comparison must be invisible to active tracers and counters.
        with _disable_current_modes(), torch.no_grad(), torch.autocast(device.type, enabled=False):
            errors = [_error(*_arguments(device, dtype, layout)) for layout in _LAYOUTS]
    except torch.OutOfMemoryError:
        raise
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError, *_triton_errors()) as error:
        problem = f"fail with {type(error).__name__} ({' '.join(str(error).split())[:300]})"
    else:
        worst = float(torch.tensor(errors).max())  # NaN if any is
        if worst <= TOLERANCE[dtype]:
            return True
        problem = (
            f"differ from plain PyTorch by {worst:.1e} of the largest value in {dtype}, allowed {TOLERANCE[dtype]}"
        )
    warnings.warn(
        f"the Triton kernels of attention pooling {problem} on {device}; they are disabled, and plain PyTorch is "
        "used instead (set GCNET_TRITON=0 to disable them from the start)",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


_LAYOUTS = (torch.contiguous_format, torch.channels_last)


def _triton_errors() -> tuple[type[Exception], ...]:
    """Errors of Triton for kernels that do not compile."""
    try:
        from triton.errors import TritonError
    except ImportError:
        return ()
    return (TritonError,)


def _arguments(device: torch.device, dtype: torch.dtype, layout: torch.memory_format) -> tuple[Tensor, Tensor, Tensor]:
    """A map, a weight and the gradient of a context: made-up numbers that take nothing from the random generators."""
    samples, channels, height, width = _SHAPE
    count = samples * channels * height * width
    x = torch.arange(count, device=device, dtype=torch.float64).mul(1.7).sin().view(_SHAPE)
    weight = torch.arange(channels, device=device, dtype=torch.float64).mul(0.9).cos()
    grad = torch.arange(samples * channels, device=device, dtype=torch.float64).mul(2.3).cos()
    x = x.to(dtype).contiguous(memory_format=layout)
    return x.flatten(2), weight.to(dtype), grad.view(samples, channels).float()


def _error(x: Tensor, weight: Tensor, grad: Tensor) -> float:
    """The largest relative difference of context and gradients from their definition in float64."""
    from gcnet.ops import triton_kernels

    context, peak, mass = triton_kernels.pool(x, weight, weight.new_zeros(()))
    gradients = triton_kernels.gradient(grad, x, weight, context, peak, mass)
    differences = [
        (result.double() - expected).abs().max() / expected.abs().max()
        for result, expected in zip((context, *gradients), _definition(x, weight, grad), strict=True)
    ]
    return float(torch.stack(differences).max())


def _definition(x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Context, gradient of the map and gradient of the weight, in float64."""
    x, weight, grad = x.double(), weight.double(), grad.double()
    attention = torch.einsum("ncp,c->np", x, weight).softmax(1)
    context = torch.einsum("ncp,np->nc", x, attention)
    grad_logits = attention * torch.einsum("ncp,nc->np", x - context.unsqueeze(2), grad)
    grad_x = torch.einsum("np,nc->ncp", attention, grad) + torch.einsum("np,c->ncp", grad_logits, weight)
    return context, grad_x, torch.einsum("np,ncp->c", grad_logits, x)
