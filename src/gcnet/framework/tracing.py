"""Blocks under symbolic tracing and scripting: one graph node per block, and a clear refusal."""

import functools
from collections.abc import Callable
from typing import Any, NoReturn

from torch import Tensor, nn
from torch.fx import Proxy

from gcnet.errors import UserError


def one_graph_node(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate `forward` of a module so that torch.fx records a call as one node, like a call of a PyTorch layer.

    Args:
        forward: method of the module and a map (N, C, *S). Further arguments have defaults, which the node uses.

    Returns:
        The method.
    """

    @functools.wraps(forward)
    def wrapper(self: nn.Module, x: Tensor, *others: Any) -> Tensor:
        if isinstance(x, Proxy):
            tracer: Any = x.tracer
            return tracer.create_proxy("call_module", tracer.path_of_module(self), (x,), {})
        return forward(self, x, *others)

    return wrapper


class NotScriptable(nn.Module):
    """Base class of modules that `torch.jit.script` refuses with a clear message."""

    def __prepare_scriptable__(self) -> NoReturn:
        """Called by `torch.jit.script` on every module of a network.

        Raises:
            UserError: always.
        """
        raise UserError("torch.jit.script does not support context blocks: use torch.export.export, or torch.jit.trace")
