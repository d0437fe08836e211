"""Forward hook that runs a block on the output of its module, also in copies and converted modules."""

from collections.abc import Collection
from typing import Any

from torch import nn

# A fixed key: PyTorch numbers hooks anew in every process, so a number could occur twice after unpickling.
_KEY: Any = "gcnet.context"


class ContextHook:
    """Forward hook that runs the child `context` of the module it is called with, so that copies use their own block.

    Tools that fuse or quantize modules move hooks to the replacing module, without its children. The hook then adds the
    block again; in a Sequential to its last child, since a child of the Sequential itself would run twice.

    Args:
        context: the block.
        installed: `context_insertion` of the module.
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
        """Add the block as a child of `module`, or of the last module of a Sequential, if it is missing."""
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
    """Add a block as the child `context` of a module and run it on every output, before other forward hooks.

    Args:
        module: the module.
        context: the block.
        installed: `context_insertion` of the module.
    """
    module.add_module("context", context)
    vars(context)["qconfig"] = None  # The block stays in floating point where its network is quantized.
    others = dict(module._forward_hooks)
    module._forward_hooks.clear()
    module._forward_hooks[_KEY] = ContextHook(context, installed)
    module._forward_hooks.update(others)


def detach(module: nn.Module) -> None:
    """Undo `attach` on `module`, also if the user cleared its hooks."""
    forget(module)
    context = module._modules.pop("context", None)
    if context is not None:
        vars(context).pop("qconfig", None)


def forget(module: nn.Module, contexts: Collection[nn.Module | None] | None = None) -> None:
    """Remove the hooks of a module that run given blocks.

    Args:
        module: the module.
        contexts: the blocks; None for all.
    """
    for key, hook in list(module._forward_hooks.items()):
        if isinstance(hook, ContextHook) and (contexts is None or hook.context in contexts):
            del module._forward_hooks[key]


def is_attached(module: nn.Module) -> bool:
    """Whether `module` runs a block by `attach`; a block lost when its module was replaced is added again."""
    hook = next((hook for hook in module._forward_hooks.values() if isinstance(hook, ContextHook)), None)
    if hook is not None:
        hook.put_back(module)
    return hook is not None and not _is_sequence(module)
