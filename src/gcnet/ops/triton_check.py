"""Whether Triton kernels may be used: the switch GCNET_TRITON, and a check against float64 before first use.

GCNET_TRITON=auto, the default, uses kernels that pass the check, and plain PyTorch with one warning otherwise; 0 uses
none; 1 raises an error instead of the warning.
"""

import os
import subprocess
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from shutil import which

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from gcnet.errors import UserError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The largest difference from float64, as a share of the largest value.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3}
_SHAPE = (2, 48, 7, 37)
_OFF, _REQUIRED, _AUTO = ("0", "false", "no", "off"), ("1", "true", "yes", "on"), ("auto", "")
_results: dict[tuple[str, torch.device, torch.dtype], bool] = {}


def usable(kernels: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether kernels are allowed, available, and correct for maps of this dtype on this device.

    The first call for a device and dtype compares outputs and gradients of a small map, contiguous and channels-last,
    with float64. If one differs by more than `TOLERANCE` or a kernel does not compile, a RuntimeWarning is issued once,
    and these kernels are disabled for every device and dtype of the process.

    Args:
        kernels: "attention pooling" or "batch norm with shortcut".
        device: of the maps.
        dtype: of the maps.

    Raises:
        UserError: GCNET_TRITON has an unknown value, or is 1 and Triton or a C compiler is missing.
        RuntimeError: GCNET_TRITON is 1, and the kernels fail.
    """
    key = kernels, device, dtype
    if key not in _results:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            # No comparison is possible during graph capture; earlier runs were compared.
            return not is_off() and has_triton()
        failed = any(name == kernels and not passed for (name, *_), passed in _results.items())
        _results[key] = not is_off() and not failed and _is_available() and _passes(*key)
    return _results[key]


# For torch.compile, equal to `torch.compiler.assume_constant_result`, without importing the compiler.
usable._dynamo_marked_constant = True  # ty: ignore[missing-attribute]


def is_off() -> bool:
    """Whether GCNET_TRITON=0 disables the kernels.

    Raises:
        UserError: GCNET_TRITON has an unknown value.
    """
    value = os.environ.get("GCNET_TRITON", "auto").lower()
    if value not in (*_OFF, *_REQUIRED, *_AUTO):
        raise UserError(f'the environment variable GCNET_TRITON must be 0, 1 or auto, found "{value}"')
    return value in _OFF


def is_required() -> bool:
    """Whether GCNET_TRITON=1 asks for an error where kernels cannot be used."""
    return os.environ.get("GCNET_TRITON", "auto").lower() in _REQUIRED


def has_triton() -> bool:
    """Whether Triton and the C compiler that it needs for its link to the driver are installed."""
    return find_spec("triton") is not None and any((os.environ.get("CC"), which("gcc"), which("clang")))


def _is_available() -> bool:
    if not has_triton() and is_required():
        raise UserError("GCNET_TRITON=1 needs Triton and a C compiler (gcc or clang); install them, or set it to auto")
    return has_triton()


def _passes(kernels: str, device: torch.device, dtype: torch.dtype) -> bool:
    errors = {"attention pooling": _pool_errors, "batch norm with shortcut": _norm_errors}[kernels]
    try:
        # The comparison must be invisible to active tracers and counters.
        with _disable_current_modes(), torch.no_grad(), torch.autocast(device.type, enabled=False):
            shares = [error for layout in _LAYOUTS for error in errors(device, dtype, layout)]
    except torch.OutOfMemoryError:
        raise
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError, *_triton_errors()) as error:
        problem = f"fail with {type(error).__name__} ({' '.join(str(error).split())[:300]})"
    else:
        worst = float(torch.tensor(shares).max())  # NaN if any is
        if worst <= TOLERANCE[dtype]:
            return True
        problem = (
            f"differ from plain PyTorch by {worst:.1e} of the largest value in {dtype}, allowed {TOLERANCE[dtype]}"
        )
    message = f"the Triton kernels of {kernels} {problem} on {device}"
    if is_required():
        raise RuntimeError(f"{message}; set GCNET_TRITON=auto to use plain PyTorch instead")
    warnings.warn(
        f"{message}; they are disabled, and plain PyTorch is used instead (set GCNET_TRITON=0 to disable them from the "
        "start)",
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


def _values(shape: tuple[int, ...], frequency: float, device: torch.device) -> Tensor:
    """Values that take nothing from the random generators, in float64."""
    count = torch.Size(shape).numel()
    return torch.arange(1, count + 1, device=device, dtype=torch.float64).mul(frequency).sin().view(shape)


def _share(result: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((result.double() - expected).abs().max() / expected.abs().max())


def _pool_errors(device: torch.device, dtype: torch.dtype, layout: torch.memory_format) -> Iterator[float]:
    """Errors of the context and of the gradients of map and key weight."""
    from gcnet.ops import triton_kernels

    samples, channels, *_ = _SHAPE
    x = _values(_SHAPE, 1.7, device).to(dtype).contiguous(memory_format=layout).flatten(2)
    weight = _values((channels,), 0.9, device).to(dtype)
    grad = _values((samples, channels), 2.3, device).float()
    context, peak, mass = triton_kernels.pool(x, weight, weight.new_zeros(()))
    gradients = triton_kernels.gradient(grad, x, weight, context, peak, mass)
    expected = _pool_definition(x.double(), weight.double(), grad.double())
    yield from map(_share, (context, *gradients), expected)


def _pool_definition(x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Context, gradient of the map and gradient of the weight."""
    attention = torch.einsum("ncp,c->np", x, weight).softmax(1)
    context = torch.einsum("ncp,np->nc", x, attention)
    grad_logits = attention * torch.einsum("ncp,nc->np", x - context.unsqueeze(2), grad)
    grad_x = torch.einsum("np,nc->ncp", attention, grad) + torch.einsum("np,c->ncp", grad_logits, weight)
    return context, grad_x, torch.einsum("np,ncp->c", grad_logits, x)


def _norm_errors(device: torch.device, dtype: torch.dtype, layout: torch.memory_format) -> Iterator[float]:
    """Errors of the output, of the sums over its gradient, and of the gradient of the input."""
    from gcnet.ops import triton_norm_kernels

    maps = (_values(_SHAPE, frequency, device) for frequency in (1.7, 0.3, 2.9))
    z, shortcut, grad = (x.to(dtype).contiguous(memory_format=layout) for x in maps)
    alpha, mean, offset = (_values(_SHAPE[1:2], frequency, device).float() for frequency in (0.9, 0.4, 1.1))
    shift = _values(_SHAPE[:2], 2.3, device).float()
    out = triton_norm_kernels.output(z, shortcut, alpha, shift)
    wide = [x[..., None, None].double() for x in (alpha, mean, offset, shift)]
    yield _share(out, torch.relu(z.double() * wide[0] + wide[3] + shortcut.double()))
    masked, along, total = triton_norm_kernels.gradient_sums(grad, out, z, mean)
    expected = grad.double() * (out > 0)
    yield _share(masked, expected)
    yield _share(along, (expected * (z.double() - wide[1])).sum((2, 3)))
    yield _share(total, expected.sum((2, 3)))
    gradient = triton_norm_kernels.input_gradient(grad, z, alpha, mean, offset)
    yield _share(gradient, grad.double() * wide[0] + z.double() * wide[1] + wide[2])
