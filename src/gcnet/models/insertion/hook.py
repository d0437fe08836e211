"""The mechanism for any module: a forward hook that runs the module's child `context` on its output."""

from typing import Any

from torch import nn

from gcnet.models.insertion.layout import Layout

# A key of our own: numbers are given out anew in every process, and one could be given twice after unpickling.
_KEY: Any = "gcnet.context"


def run_context(module: Any, _: tuple[Any, ...], output: Any) -> Any:
    """The output with the context fused in. It reads all from `module`, so that copies and pickles keep their own."""
    layout: Layout = module.context_insertion.layout
    return layout.run(module.context, output)


def attach(module: nn.Module, context: nn.Module) -> None:
    """Make `context` a child that acts on every output of `module`, before what other hooks do with it."""
    module.add_module("context", context)
    others = dict(module._forward_hooks)
    module._forward_hooks.clear()
    module._forward_hooks[_KEY] = run_context
    module._forward_hooks.update(others)


def detach(module: nn.Module) -> None:
    """Undo `attach`."""
    module._forward_hooks.pop(_KEY, None)  # The user may have cleared them.
    module._modules.pop("context", None)


def is_attached(module: nn.Module) -> bool:
    """Whether `module` runs a context by `attach`."""
    return module._forward_hooks.get(_KEY) is run_context
