"""Weights of a network or block under the keys of a new one, whatever tools have wrapped its modules in."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from gcnet.errors import UserError
from gcnet.models.outputs import evaluating

_COUNTERS = ("total_ops", "total_params")  # buffers that thop adds to every module
_WRAPPED = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}


def plain_name(model: nn.Module, name: str) -> str:
    """Return the name of a module without the parts added by compiling, parallel training, averaging and peft.

    Args:
        model: the network.
        name: of the module.
    """
    kept, module = [], model
    for part in name.split(".") if name else ():
        if not _is_wrapping(module, part):
            kept.append(part)
        module = module.get_submodule(part)
    return ".".join(kept)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside compiled, parallel and averaged wrappers of `module`, or peft's trained copy."""
    while True:
        child = _WRAPPED.get(type(module).__name__)
        if child is not None and child in module._modules:
            module = module.get_submodule(child)
        elif type(module).__name__ == "ModulesToSaveWrapper":
            adapters = module.get_submodule("modules_to_save")
            module = adapters.get_submodule(_active_adapter(module))
        else:
            return module


def plain_weights(module: nn.Module, name: str) -> dict[str, Tensor]:
    """Return parameters and persistent buffers of a network or block, with the keys of a new one.

    Pruned, normalized and parametrized layers yield the weights that they compute with in evaluation mode; buffers of
    FLOP counters are skipped.

    Args:
        module: a network or an inserted block, possibly wrapped.
        name: of it, for errors.

    Raises:
        UserError: the weights are sharded or not in memory.
    """
    with evaluating(unwrapped(module)) as inner:
        weights = {key: tensor.detach() for key, tensor in _weights(inner, "")}
    require_whole(weights, name)
    return weights


def require_whole(tensors: Mapping[str, Tensor], owner: str) -> None:
    """Check that this process holds all values of all tensors.

    Args:
        tensors: weights by name.
        owner: their owner in errors.

    Raises:
        UserError: a tensor is sharded (FSDP) or on the meta device (offloaded).
    """
    for key, tensor in tensors.items():
        if hasattr(tensor, "full_tensor"):
            raise UserError(
                f"the weights of {owner} are sharded (FSDP): load the state dict of "
                "torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True into the "
                "network as it was before fully_shard, and save that"
            )
        if tensor.is_meta:
            raise UserError(f"the weights of {owner} are not in memory: {key} is on the meta device (offloaded)")


def _weights(module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(module, torch.jit.ScriptModule):
        yield from ((f"{prefix}{key}", tensor) for key, tensor in module.state_dict().items())
        return
    derived: dict[str, set[str]] = {}
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod):
            hook(module, ())  # computes the effective weight
            derived[hook._tensor_name] = {f"{hook._tensor_name}_orig", f"{hook._tensor_name}_mask"}
        elif isinstance(hook, WeightNorm):
            hook(module, ())
            derived[hook.name] = {f"{hook.name}_g", f"{hook.name}_v"}
        elif isinstance(hook, SpectralNorm):
            hook(module, ())
            derived[hook.name] = {f"{hook.name}_orig", f"{hook.name}_u", f"{hook.name}_v"}
    if is_parametrized(module):
        derived |= {key: set() for key in module.get_submodule("parametrizations")._modules}
    yield from ((f"{prefix}{key}", getattr(module, key)) for key in derived)
    hidden = set(_COUNTERS).union(*derived.values())
    for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
        if tensor is not None and key not in hidden and key not in module._non_persistent_buffers_set:
            yield f"{prefix}{key}", tensor
    for key, child in module._modules.items():
        if child is not None and key != "parametrizations":
            yield from _weights(unwrapped(child), f"{prefix}{key}.")


def _is_wrapping(module: nn.Module, part: str) -> bool:
    return _WRAPPED.get(type(module).__name__) == part or (
        type(module).__module__.startswith("peft.") and part in ("base_model", "model", "base_layer")
    )


def _active_adapter(wrapper: nn.Module) -> str:
    adapter = getattr(wrapper, "active_adapter", "default")
    return adapter if isinstance(adapter, str) else adapter[0]
