"""Networks whose weights are sharded over the processes of torchrun, by FSDP2."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gcnet.errors import UserError


def shard(networks: Sequence[nn.Module], device: torch.device, world: int) -> None:
    """Shard the weights of networks in place: of each parameter, every process keeps a part along its first dimension.

    A forward pass gathers the weights of one unit after the other (`sharded_units`), and of the rest of the network as
    a whole. The backward pass does the same, and averages the gradients over the processes, each of which keeps those
    of its part.

    Args:
        networks: with equal weights in all processes, on any device.
        device: of this process, to which the parts are moved.
        world: number of processes.

    Raises:
        UserError: a parameter is a scalar.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    scalar = next((name for network in networks for name, value in network.named_parameters() if not value.ndim), None)
    if scalar is not None:
        raise UserError(f"`shard_model` cannot shard a scalar, found the parameter {scalar}: train without it")
    mesh = init_device_mesh(device.type, (world,))
    for network in networks:
        for module in [*sharded_units(network), network]:
            fully_shard(module, mesh=mesh, reshard_after_forward=True)


def sharded_units(network: nn.Module) -> list[nn.Module]:
    """Return the modules whose weights are gathered together: residual blocks, or else stages.

    These are the modules of one class in an `nn.Sequential`, of a detector in its backbone; none in a network
    with shared parameters.

    Args:
        network: to shard.
    """
    parameters = [parameter for _, parameter in network.named_parameters(remove_duplicate=False)]
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        return []
    body = network.get_submodule("backbone") if hasattr(network, "roi_heads") else network
    return list(_repeated(body))


def _repeated(module: nn.Module) -> Iterator[nn.Module]:
    blocks: list[nn.Module] = []
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        blocks = [child for child in module if list(child.children()) and list(child.parameters())]
    for child in module.children():
        if child in blocks and any(_is_alike(child, other) for other in blocks if other is not child):
            yield child
        else:
            yield from _repeated(child)


def _is_alike(block: nn.Module, other: nn.Module) -> bool:
    """Whether one has the class of the other, or one derived from it, such as a residual block with a context block."""
    return isinstance(block, type(other)) or isinstance(other, type(block))


def is_sharded(tensor: Tensor) -> bool:
    """Return whether this process holds only a part of a tensor (DTensor).

    Args:
        tensor: of shape (N, ...) or ().
    """
    return hasattr(tensor, "to_local")


def local_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, in the same memory; all of it if it is not sharded.

    Args:
        tensor: of shape (N, ...) or ().
    """
    sharded: Any = tensor
    return sharded.to_local() if is_sharded(tensor) else tensor


def without_weights(network: nn.Module) -> nn.Module:
    """Return a deep copy of `network` with parameters on the meta device, before it is sharded."""
    memo: dict[int, Any] = {}
    for parameter in network.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    return copy.deepcopy(network, memo)


def with_weights(skeleton: nn.Module, network: nn.Module, device: torch.device, *, keep: bool = True) -> nn.Module:
    """Copy a sharded network with all its weights, gathered tensor by tensor; all processes call this together.

    Args:
        skeleton: of `without_weights`.
        network: sharded.
        device: of the copy.
        keep: whether this process needs the copy; otherwise it is without weights.

    Returns:
        The copy, which is not sharded.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        sharded: Any = tensor
        whole = sharded.full_tensor() if is_sharded(tensor) else tensor
        if keep:
            tensors[name] = whole.detach().to(device, copy=True)
    whole_network = copy.deepcopy(skeleton)
    if keep:
        whole_network.load_state_dict(tensors, assign=True)
        whole_network.to(device)  # buffers that are not in state dicts
    return whole_network
