"""The owner of a lock as lock files name it: process, machine, and since when."""

import json
import os
import socket
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gcnet.errors import printable

_UNITS = ((86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds"))
_LEAST = 2  # of a unit; fewer are given in the next smaller one


def own_lock() -> dict[str, Any]:
    """Return the description of a lock that this process takes now."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "process": os.getpid(), "started": started}


def this_machine() -> str:
    """Return an identifier of this machine and of its process numbers, of which containers have their own.

    It changes when the machine is started again. Machines of the same host name have different ones.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        return f"{uuid.getnode():x}"


def has_ended(owner: Mapping[str, Any]) -> bool:
    """Return whether an owner is a process of this machine that has ended, or this process.

    Args:
        owner: With `machine` as of `this_machine`; False without it.
    """
    if owner.get("machine") != this_machine():
        return False
    process = owner.get("process")
    try:
        os.kill(int(str(process)), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return True
    except PermissionError:
        return False
    return process == os.getpid()


def read_owner(content: bytes) -> dict[str, Any]:
    """Return the owner that the `content` of a lock file names; empty if it is damaged.

    Files of earlier versions have the process only.
    """
    try:
        owner = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    if isinstance(owner, int):
        return {"process": owner}
    return owner if isinstance(owner, dict) else {}


def describe_owner(owner: Mapping[str, Any]) -> str:
    """Return an owner in words, such as "process 123 on node7 since 2026-01-01T10:00:00+00:00 (5 hours ago)"."""
    process, host, started = (owner.get(name) for name in ("process", "host", "started"))
    words = "another process" if process is None else f"process {process}"
    words += "" if host is None else f" on {host}"
    words += "" if started is None else f" since {started} ({ago(started)})"
    return printable(words)


def seconds_since(time: object) -> float | None:
    """Return how many seconds ago a time was, or None for an unknown time.

    Args:
        time: in ISO format with its time zone.
    """
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(str(time))).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None


def ago(time: object) -> str:
    """Return how long ago a time was, such as "5 hours ago", or "at an unknown time".

    Args:
        time: in ISO format with its time zone.
    """
    seconds = seconds_since(time)
    if seconds is None:
        return "at an unknown time"
    size, unit = next((item for item in _UNITS if seconds >= _LEAST * item[0]), _UNITS[-1])
    return f"{max(seconds, 0) // size:.0f} {unit} ago"
