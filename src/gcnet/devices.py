"""The device of this process, its rank under torchrun, and the dtypes of half precision."""

import os

import torch

from gcnet.errors import UserError

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
    device = torch.device("cuda", _gpu_index(name, device))
    torch.cuda.set_device(device)
    return device


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
        raise UserError(f"`device={name}`: torchrun started more processes than there are GPUs here, {gpus}")
    raise UserError(f"`device={name}`: there are {gpus} GPUs, numbered from 0")
