"""Devices: the choice of a device, the precision and memory format on it, and PyTorch's settings of GPU kernels."""

import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gcnet.errors import UserError

AUTO = "auto"
AUTOCAST = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Half-precision dtype of autocast by the name of the precision; None for none."""


def is_first_process() -> bool:
    """Whether this process is the only one or of rank 0 under torchrun."""
    return not in_several_processes() or os.environ.get("RANK", "0") == "0"


def in_several_processes() -> bool:
    """Whether torchrun started several processes, including this one."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device `name`: "auto", "cpu", "cuda", "cuda:N" or a `torch.device`; under torchrun a GPU per process.

    A GPU becomes the current one, and CUBLAS_WORKSPACE_CONFIG, if it is not set, :4096:8, so that later runs of the
    process can be deterministic.

    Raises:
        UserError: an unknown name, a missing GPU, or one GPU for several processes.
    """
    name, available = str(name), torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if available else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise _unknown_device(name) from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise _unknown_device(name)
    if device.index is not None and in_several_processes():
        raise UserError(
            f"`device={name}`: under torchrun every process needs a GPU of its own; use `device=cuda`, and choose "
            "GPUs by CUDA_VISIBLE_DEVICES"
        )
    if not available:
        raise UserError(f"`device={name}`: PyTorch finds no CUDA GPU here; use `device=cpu` or auto")
    # Deterministic runs need it. PyTorch reads it once in a process, at the first matrix product on a GPU.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = torch.device("cuda", _gpu_index(name, device))
    torch.cuda.set_device(device)
    return device


def visible_gpus(name: str) -> tuple[str, ...]:
    """Return the GPUs of the device `name`, each as the CUDA_VISIBLE_DEVICES of a process that uses it alone.

    Returns:
        All visible GPUs for "cuda" and "auto"; none for the CPU, and for a device with a number, such as "cuda:1".
    """
    if name not in ("auto", "cuda"):
        return ()
    return gpu_names(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def gpu_names(count: int, visible: str | None) -> tuple[str, ...]:
    """Return the names of GPUs for CUDA_VISIBLE_DEVICES: their numbers, or the entries of the variable.

    Args:
        count: number of GPUs that CUDA sees.
        visible: the variable, None where it is not set.
    """
    names = [str(index) for index in range(count)] if visible is None else visible.split(",")
    return tuple(name.strip() for name in names[:count])


def _unknown_device(name: str) -> UserError:
    meant = f"cuda:{name}" if name.isdecimal() else {"gpu": "cuda"}.get(name.lower(), name.lower())
    proposal = f'; did you mean "{meant}"?' if meant != name and meant.startswith(("cuda", "cpu")) else ""
    return UserError(f'`device` takes auto, cpu, cuda or cuda:N, found "{name}"{proposal}')


def _gpu_index(name: str, device: torch.device) -> int:
    """The number of the GPU: the one that is named, or this process' own under torchrun."""
    gpus = torch.cuda.device_count()
    index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
    if index < gpus:
        return index
    if device.index is None:
        raise UserError(f"`device={name}`: torchrun started more processes than this machine has GPUs ({gpus})")
    raise UserError(f"`device={name}`: there are {gpus} GPUs, numbered from 0")


def choose_precision(name: str, device: torch.device) -> str:
    """Return the precision of a network on a device.

    Args:
        name: "float32", "bf16", "fp16", or "auto" for bf16 on GPUs with bfloat16 and float32 elsewhere.
        device: of the network.

    Returns:
        A key of `AUTOCAST`.
    """
    if name != AUTO:
        return name
    is_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if is_bf16 else "float32"


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype of autocast.

    Args:
        precision: as `name` of `choose_precision`.
        device: of the network.

    Returns:
        The half-precision dtype; None for float32.
    """
    return AUTOCAST[choose_precision(precision, device)]


def choose_memory_format(channels_last: bool | None, device: torch.device) -> torch.memory_format:
    """Return the memory format of images and networks.

    Args:
        channels_last: whether it is channels_last; None for channels_last on GPUs only.
        device: of the network.

    Returns:
        `torch.channels_last` or `torch.contiguous_format`.
    """
    is_last = device.type == "cuda" if channels_last is None else channels_last
    return torch.channels_last if is_last else torch.contiguous_format


def place_network(network: nn.Module, device: torch.device) -> None:
    """Move a network to a device for evaluation or prediction, on a GPU in the channels_last memory format.

    Args:
        network: parameters are replaced in place.
        device: of the network.
    """
    network.to(device)
    if choose_memory_format(None, device) == torch.channels_last:
        network.to(memory_format=torch.channels_last)


@contextmanager
def gpu_kernels(
    device: torch.device, *, deterministic: bool = False, tf32: bool | None = None, fixed_sizes: bool = False
) -> Generator[None]:
    """Set up the GPU kernels of PyTorch for a run, and restore the previous settings at the end.

    Args:
        device: of the run. On the CPU only `deterministic` has an effect.
        deterministic: use deterministic kernels; operations without them raise RuntimeError, and so do matrix products
            in a process that made one on a GPU before CUBLAS_WORKSPACE_CONFIG was set (`choose_device`).
        tf32: whether float32 matrix products and convolutions use TF32; None keeps PyTorch's settings, which are TF32
            for convolutions only.
        fixed_sizes: whether all batches have one size, so that cuDNN may time its algorithms once and keep the fastest
            (`torch.backends.cudnn.benchmark`). Deterministic runs never do.

    Yields:
        None, with the settings in effect.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before, benchmark = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark
    tf32_before = None
    try:
        torch.use_deterministic_algorithms(deterministic or before)
        if device.type == "cuda":
            cudnn.benchmark = fixed_sizes and not (deterministic or before)
        if tf32 is not None:
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                # PyTorch 2.11 recommends newer settings, but its torch.compile reads these.
                tf32_before = cudnn.allow_tf32, matmul.allow_tf32
                cudnn.allow_tf32 = matmul.allow_tf32 = tf32
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        cudnn.benchmark = benchmark
        if tf32_before is not None:
            cudnn.allow_tf32, matmul.allow_tf32 = tf32_before


def describe_kernels(device: torch.device) -> dict[str, Any]:
    """Return PyTorch's present settings of the kernels of a `device` as JSON values; none on the CPU."""
    if device.type != "cuda":
        return {}
    cudnn: Any = torch.backends.cudnn
    return {
        "tf32_convolutions": cudnn.conv.fp32_precision == "tf32",
        "tf32_matmul": torch.backends.cuda.matmul.fp32_precision == "tf32",
        "cudnn_benchmark": cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def kernel_words(device: torch.device) -> list[str]:
    """Return PyTorch's present settings of the kernels of a `device` as words to print; none on the CPU."""
    kernels = describe_kernels(device)
    if not kernels:
        return []
    tf32 = [name for name in ("convolutions", "matmul") if kernels[f"tf32_{name}"]]
    words = [f"TF32 in {' and '.join(tf32)}" if tf32 else "no TF32"]
    return words + (["cudnn benchmark"] if kernels["cudnn_benchmark"] else [])
