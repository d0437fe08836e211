"""Detects hooks, tracing, exporting and transforms that would see an in-place write."""

import torch
from torch import nn
from torch.nn.modules import module as module_hooks


def is_observed(module: nn.Module) -> bool:
    """Whether a hook could keep a map that the module works on, or its operations are recorded into a program.

    Args:
        module: it and all modules within it are searched for forward hooks and replaced forward methods.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.jit.is_scripting():
        return True
    if torch.onnx.is_in_onnx_export() or torch._C._are_functorch_transforms_active():
        return True
    if module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks:
        return True
    return any(one._forward_hooks or one._forward_pre_hooks or "forward" in one.__dict__ for one in module.modules())
