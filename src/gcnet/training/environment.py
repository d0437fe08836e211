"""What the results of a run may depend on besides its settings: versions, machine and command line."""

import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any


def describe_environment(device: str, processes: int) -> dict[str, Any]:
    """Return versions, machine and command line, which results may depend on.

    Args:
        device: of the run.
        processes: their number.

    Returns:
        JSON values for environment.json.
    """
    import torch

    from gcnet.devices import describe_kernels

    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor(),
        "processes": processes,
        "kernels": describe_kernels(torch.device(device)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(("gcnet", "torch", "torchvision", "timm", "numpy", "pillow")),
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of those `packages` that are installed."""
    installed = {}
    for package in packages:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed
