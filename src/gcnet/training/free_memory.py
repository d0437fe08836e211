"""Free memory of the machine, and peak memory of this process."""

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_RESERVE = 0.1  # of the free memory, for other programs
_ROOT = Path("/")
_STATUS = "proc/self/status"
# Folder of a control group, its limit, its usage, and the part of it that are files the system can drop: versions 2, 1.
_UNIFIED = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
_MEMORY = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
# Limits of this process (`ulimit`), and what counts towards them.
_OWN = {resource.RLIMIT_AS: "VmSize:", resource.RLIMIT_DATA: "VmData:"}


def free_memory(root: Path = _ROOT) -> int | None:
    """Return the memory in bytes that this process can still use on the CPU.

    It is that of the machine and of the control groups (containers, Slurm jobs) of this process, shared equally with
    the other processes of torchrun on this machine, and at most what the limits of this process (`ulimit`) leave; less
    a tenth.

    Args:
        root: folder with `proc` and `sys`.

    Returns:
        Bytes; None on systems other than Linux.
    """
    try:
        machine = _value(root / "proc/meminfo", "MemAvailable:") * 1024
    except (OSError, ValueError, LookupError):
        return None
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free = min([machine / processes, *(left / processes for left in _of_control_groups(root)), *_of_own_limits(root)])
    return int(max(free, 0) * (1 - _RESERVE))


class PeakMemory:
    """Peak memory of this process, in bytes more than when the object was made (Linux)."""

    def __init__(self) -> None:
        _release_heap()
        self._start = self._bytes("VmRSS:")

    def reset(self) -> None:
        """Start a new peak; where the system does not allow it, the peak is that of the whole life of the process."""
        _release_heap()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def growth(self) -> int:
        """Return the peak since the last reset, in bytes more than at the start."""
        return self._bytes("VmHWM:") - self._start

    def _bytes(self, name: str) -> int:
        return _value(_ROOT / _STATUS, name) * 1024


def _release_heap() -> None:
    """Return what the heap does not use to the system, since the memory of a run would be hidden in it."""
    with suppress(AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _value(file: Path, name: str) -> int:
    """The number after a name at the beginning of a line."""
    rows = (line.split() for line in file.read_text().splitlines())
    return next((int(row[1]) for row in rows if row and row[0] == name), 0)


def _of_own_limits(root: Path) -> Iterator[int]:
    """What the limits of this process leave."""
    for kind, name in _OWN.items():
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit - _value(root / _STATUS, name) * 1024


def _of_control_groups(root: Path) -> Iterator[int]:
    """What the control groups of this process leave, each within the ones around it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top, limit, usage, files = _MEMORY if kinds else _UNIFIED
        group = root / top / path.lstrip("/")
        while group.is_relative_to(root / top):
            try:
                most, used = int((group / limit).read_text()), int((group / usage).read_text())
                yield most - used + _value(group / "memory.stat", files)
            except (OSError, ValueError):  # a group of another machine's tree, or "max": without a limit
                pass
            group = group.parent
