"""A forward hook that runs a module's child `context` on the module's output."""

from collections.abc import Collection
from typing import Any

from torch import nn

# A key of our own: numbers are given out anew in every process, and one could be given twice after unpickling.
_KEY: Any = "gcnet.context"


class ContextHook:
    """Runs the child `context` of the module that it is called with, so that copies and replicas use their own.

    Tools that fuse or quantize modules move the hooks of a module to its replacement, without its children. There the
    hook puts the block back; in a Sequential on its last child, as a child of a Sequential itself would run twice.

    Args:
        context: the block.
        installed: the module's `context_insertion`.
    """

    def __init__(self, context: nn.Module, installed: Any) -> None:
        self.context = context
        self.installed = installed

    def __call__(self, module: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
        """The output with the context fused in."""
        if _is_sequence(module):
            if is_attached(_last(module)):
                return output
            self.put_back(module)
            return self.installed.layout.run(self.context, output)
        self.put_back(module)
        return self.installed.layout.run(module._modules["context"], output)

    def put_back(self, module: nn.Module) -> None:
        """Make the block a child of the module, or of the last module of a Sequential, unless it is one."""
        if _is_sequence(module):
            if not is_attached(_last(module)):
                attach(_last(module), self.context, self.installed)
                vars(_last(module))["context_insertion"] = self.installed
        elif "context" not in module._modules:
            module.add_module("context", self.context)
            vars(module)["context_insertion"] = self.installed


def _is_sequence(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _last(module: nn.Module) -> nn.Module:
    return list(module.children())[-1]


def attach(module: nn.Module, context: nn.Module, installed: Any) -> None:
    """Make `context` a child that acts on every output of `module`, before what other hooks do with it."""
    module.add_module("context", context)
    vars(context)["qconfig"] = None  # The block stays in floating point where its network is quantized.
    others = dict(module._forward_hooks)
    module._forward_hooks.clear()
    module._forward_hooks[_KEY] = ContextHook(context, installed)
    module._forward_hooks.update(others)


def detach(module: nn.Module) -> None:
    """Undo `attach`, also where the user cleared the hooks."""
    forget(module)
    context = module._modules.pop("context", None)
    if context is not None:
        vars(context).pop("qconfig", None)


def forget(module: nn.Module, contexts: Collection[nn.Module | None] | None = None) -> None:
    """Remove the hooks that run one of `contexts`; None for any."""
    for key, hook in list(module._forward_hooks.items()):
        if isinstance(hook, ContextHook) and (contexts is None or hook.context in contexts):
            del module._forward_hooks[key]


def is_attached(module: nn.Module) -> bool:
    """Whether `module` runs a context by `attach`; a block that was lost when its module was replaced is put back."""
    hook = next((hook for hook in module._forward_hooks.values() if isinstance(hook, ContextHook)), None)
    if hook is not None:
        hook.put_back(module)
    return hook is not None and not _is_sequence(module)
