"""Imports torchvision without torch._dynamo, which takes as long to import as torch itself.

torchvision.ops.roi_align imports it for `is_compile_supported`, which only RoIAlign calls.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_DYNAMO = "torch._dynamo.utils"


class _Deferred(ModuleType):
    """Stand-in for `torch._dynamo.utils`; any other use than the import of torchvision gets the real module."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "is_compile_supported":
            return _is_compile_supported
        if sys.modules.get(_DYNAMO) is self:
            del sys.modules[_DYNAMO]
        return getattr(import_module(_DYNAMO), name)


def _is_compile_supported(device_type: Any) -> bool:
    return import_module(_DYNAMO).is_compile_supported(device_type)


def import_torchvision() -> None:
    """Import torchvision, if it is not imported yet; torch._dynamo is then imported on first use."""
    if "torchvision" in sys.modules or _DYNAMO in sys.modules:
        return
    import torch  # noqa: F401 (its own import of torch._dynamo, if any, comes first)

    stand_in = _Deferred(_DYNAMO)
    sys.modules.setdefault(_DYNAMO, stand_in)
    try:
        import_module("torchvision")
    finally:
        if sys.modules.get(_DYNAMO) is stand_in:
            del sys.modules[_DYNAMO]
