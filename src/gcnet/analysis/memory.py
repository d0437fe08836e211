"""Peak memory of one call, such as a training step, measured in its own process."""

import ctypes
import multiprocessing
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import nn

from gcnet.analysis.timing import PLAIN, Precision, training_step_call
from gcnet.children import FROM_TERMINAL, end_with_parent, signals_blocked

_PATIENCE = 300.0
_running: set[BaseProcess] = set()
_MMAP_THRESHOLD = -3  # mallopt(3): larger blocks come from the system one by one


def training_step_peak_memory(
    build: Callable[[], nn.Module],
    input_shape: tuple[int, ...],
    *,
    device: str = "cpu",
    threads: int = 1,
    precision: Precision = PLAIN,
) -> int | None:
    """Return the peak memory of one training step of a network, beyond the network itself.

    The step is on random images. Gradients, activations, momentum and work space are included; weights and libraries
    are not. Measured as in `peak_memory`.

    Args:
        build: a picklable function that returns the network.
        input_shape: of the images (N, 3, H, W).
        device: such as "cpu" or "cuda:0".
        threads: of PyTorch on the CPU.
        precision: of the step.

    Returns:
        Bytes; None if the measuring process died.
    """
    prepare = partial(_training_step, build, input_shape, device, precision)
    return peak_memory(prepare, device=device, threads=threads)


def peak_memory(
    prepare: Callable[[], Callable[[], object]], *, device: str = "cpu", threads: int = 1, warm_up: int = 0
) -> int | None:
    """Return the peak memory of a call, beyond the memory in use before it.

    A fresh process prepares the call, runs it `warm_up` times for what libraries keep from their first use, and then
    measures one call: on the CPU the rise of the process's resident set, on CUDA that of allocated memory.

    Args:
        prepare: a picklable function that returns the call.
        device: such as "cpu" or "cuda:0".
        threads: of PyTorch on the CPU.
        warm_up: number of calls before the measured one.

    Returns:
        Bytes; None if the process could not be started or died.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(daemon=True, target=_measure, args=(sender, prepare, device, threads, warm_up))
    try:
        with signals_blocked(*FROM_TERMINAL):
            process.start()
    except (AttributeError, TypeError, ValueError, OSError):  # a builder that cannot be pickled, or no memory left
        return None
    sender.close()
    _running.add(process)
    try:
        return receiver.recv() if receiver.poll(_PATIENCE) else None
    except EOFError:
        return None
    finally:
        _running.discard(process)
        process.kill()
        process.join()
        receiver.close()


def end_measurements() -> None:
    """Terminate the measuring processes of other threads; their `peak_memory` returns None."""
    for process in list(_running):
        process.kill()


def _training_step(
    build: Callable[[], nn.Module], input_shape: tuple[int, ...], device: str, precision: Precision
) -> Callable[[], object]:
    return training_step_call(build().to(device), torch.randn(input_shape, device=device), precision)


def _measure(
    sender: Connection, prepare: Callable[[], Callable[[], object]], device: str, threads: int, warm_up: int
) -> None:
    end_with_parent(signal.SIGKILL)
    torch.set_num_threads(threads)
    _return_freed_memory()
    call = prepare()
    for _ in range(warm_up):
        call()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        sender.send(torch.cuda.max_memory_allocated(device) - before)
        return
    _forget_peak()
    before = peak_resident_bytes()
    call()
    sender.send(peak_resident_bytes() - before)


def _return_freed_memory() -> None:
    """Make the allocator (glibc) return freed memory at once; retained memory would falsify the peak."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, 65_536)


def _forget_peak() -> None:
    """Set the kernel's high-water mark to the memory in use now, where it can be set (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_resident_bytes() -> int:
    """Return the peak resident memory of this process in bytes.

    Linux passes `ru_maxrss` from the parent through fork and exec, so there the peak is read from the process's status.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
