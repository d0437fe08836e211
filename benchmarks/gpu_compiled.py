"""`torch.compile` for contestants that take turns."""

from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.backends.registry import lookup_backend


def compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """`torch.compile` by a backend of its own, so that a call does not search what other contestants compiled.

    On a CPU the traced operations run as they are: it is only there to try the command out.

    Args:
        function: a module or function.
        device: that it runs on.
    """
    chosen = lookup_backend("inductor" if device.type == "cuda" else "aot_eager")

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        return chosen(graph, inputs)

    return torch.compile(function, backend=backend, dynamic=False)


def forget_compiled() -> None:
    """Forget what was compiled: PyTorch compiles a function for a few shapes only, and then no more."""
    torch._dynamo.reset()
