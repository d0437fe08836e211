"""What sees the maps between modules: hooks, replaced forward methods, and programs that record operations."""

import torch
from torch import nn
from torch.nn.modules import module as module_hooks


def is_observed(module: nn.Module) -> bool:
    """Whether hooks could keep a map that `module` works on, or its operations are recorded into a program.

    All modules within it are searched for hooks and replaced forward methods.
    """
    return torch.compiler.is_compiling() or is_recorded() or any(is_hooked(part) for part in module.modules())


def is_recorded() -> bool:
    """Whether operations are recorded into a program other than of torch.compile, or transformed by torch.func."""
    return torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()


def is_hooked(module: nn.Module) -> bool:
    """Whether hooks see inputs, outputs or gradients of `module` itself, or its forward method is replaced."""
    if module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks:
        return True
    if module_hooks._global_backward_hooks or module_hooks._global_backward_pre_hooks:
        return True
    return has_own_hooks(module)


def has_own_hooks(module: nn.Module) -> bool:
    """Whether `module` has forward or backward hooks of its own, or its forward method is replaced."""
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks) or "forward" in vars(module)
