"""Peak memory of one training step, measured in a process of its own."""

import multiprocessing
import resource
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn

from gcnet.analysis.timing import PLAIN, Numerics, training_step_call

_PATIENCE = 300.0


def training_step_peak_memory(
    build: Callable[[], nn.Module],
    input_shape: tuple[int, ...],
    *,
    device: str = "cpu",
    threads: int = 1,
    numerics: Numerics = PLAIN,
) -> int | None:
    """Bytes that one training step of `build()` takes beyond the built model, at the worst moment of the step.

    A fresh process builds the model and runs one step on random images of `input_shape` (N, 3, H, W): gradients,
    activations, momentum and work space are in the number, weights and libraries are not. On the CPU it is the rise of
    the process's resident set, on CUDA the rise of allocated memory. `build` must be picklable; None where the
    process could not be started or died.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        daemon=True, target=_measure, args=(sender, build, input_shape, device, threads, numerics)
    )
    try:
        process.start()
    except (AttributeError, TypeError, ValueError, OSError):  # a builder that cannot be pickled, or no memory left
        return None
    sender.close()
    try:
        return receiver.recv() if receiver.poll(_PATIENCE) else None
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()
        receiver.close()


def _measure(
    sender: Connection,
    build: Callable[[], nn.Module],
    input_shape: tuple[int, ...],
    device: str,
    threads: int,
    numerics: Numerics,
) -> None:
    torch.set_num_threads(threads)
    step = training_step_call(build().to(device), torch.randn(input_shape, device=device), numerics)
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated(device)
        step()
        sender.send(torch.cuda.max_memory_allocated(device) - before)
        return
    _forget_peak()
    before = peak_resident_bytes()
    step()
    sender.send(peak_resident_bytes() - before)


def _forget_peak() -> None:
    """Set the kernel's high-water mark to the memory in use now, where it can be set (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_resident_bytes() -> int:
    """The high-water mark of this process's own memory.

    Linux hands `ru_maxrss` down from the parent through fork and exec, so there the mark is read from its own status.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
