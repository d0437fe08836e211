"""Networks whose weights are sharded over the processes of torchrun, by FSDP2."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gcnet.errors import UserError, raise_if_out_of_memory
from gcnet.training.distributed import Processes


def shard(networks: Sequence[nn.Module], device: torch.device, world: int) -> None:
    """Shard the weights of networks in place: of each parameter, every process keeps a part along its first dimension.

    A forward pass gathers the weights of one unit after the other (`sharded_units`), and of the rest of the network as
    a whole. The backward pass does the same, and averages the gradients over the processes, each of which keeps those
    of its part. Scalars, which have no dimension, stay whole in every process; `average_scalar_gradients` averages
    their gradients.

    Args:
        networks: networks, or modules around them, with equal weights in all processes, on any device.
        device: of this process, to which the parts are moved.
        world: number of processes.

    Raises:
        UserError: trained parameters have different dtypes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for network in networks:
        _require_one_dtype(network)
    mesh = init_device_mesh(device.type, (world,))
    for network in networks:
        scalars = _scalars(network)
        for scalar in scalars:
            scalar.data = scalar.data.to(device)
        for module in [*sharded_units(network), network]:
            fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=set(scalars) or None)


def _require_one_dtype(network: nn.Module) -> None:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad and parameter.ndim]
    dtypes = list(dict.fromkeys(str(value.dtype).removeprefix("torch.") for value in trained))
    if len(dtypes) > 1:
        raise UserError(f"`shard_model` needs parameters of one dtype, found {' and '.join(dtypes)}")


def average_scalar_gradients(network: nn.Module, processes: Processes) -> None:
    """Replace the gradients of the scalars of a sharded network, after a backward pass, by their means over processes.

    Args:
        network: sharded.
        processes: that train together.
    """
    trained = [scalar for scalar in _scalars(network) if scalar.requires_grad]
    for scalar in trained:
        if scalar.grad is None:  # of a process that has not used it
            scalar.grad = torch.zeros_like(scalar)
    processes.average([scalar.grad for scalar in trained if scalar.grad is not None])


def _scalars(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if not parameter.ndim]


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
    detector = next((module for module in network.modules() if hasattr(module, "roi_heads")), None)
    return list(_repeated(detector.get_submodule("backbone") if detector else network))


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
    """Return a deep copy of a network with parameters on the meta device, before it is sharded.

    Args:
        network: not sharded.

    Raises:
        UserError: it cannot be copied, such as a pruned one.
    """
    memo: dict[int, Any] = {}
    for parameter in network.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    try:
        return copy.deepcopy(network, memo)
    except Exception as error:  # networks hold any object, or tensors computed from parameters
        raise_if_out_of_memory(error)
        raise UserError(f"`shard_model` needs a network that can be copied, which failed: {error}") from error


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
