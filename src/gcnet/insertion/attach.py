"""Attaches blocks to modules, by a forward hook or inside a residual block; lists and removes them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from gcnet.errors import UserError
from gcnet.framework.narrow_block import NarrowBlock
from gcnet.insertion.families import into_residual, out_of_residual
from gcnet.insertion.hook import attach, detach, forget, is_attached
from gcnet.insertion.layout import Layout
from gcnet.insertion.record import Insertion, Site
from gcnet.insertion.residual_blocks.position import Positioned

_SAVED = "use_nested_tensor_without_context"


def keep_padding(model: nn.Module, holds_block: set[nn.Module]) -> None:
    """Disable nested tensors in encoders with a block, and enable them again after its removal.

    Args:
        model: the network.
        holds_block: the modules that run an inserted block.
    """
    for encoder in model.modules():
        if not isinstance(encoder, nn.TransformerEncoder):
            continue
        attributes, holds = vars(encoder), any(module in holds_block for module in encoder.modules())
        if holds and _SAVED not in attributes:
            attributes[_SAVED] = attributes.get("use_nested_tensor", False)
            attributes["use_nested_tensor"] = False
        elif not holds and _SAVED in attributes:
            attributes["use_nested_tensor"] = attributes.pop(_SAVED)


@dataclass(frozen=True)
class InsertRequest:
    """The arguments of one call of `insert`, in JSON values.

    Attributes:
        order: index of the call on this network.
        block: name of the block, or of the user's builder.
        custom: whether `block` names a builder of the user's own.
        ratio: the paper's r, or None.
        stages: stages of the residual blocks, where chosen by stage; else None.
        blocks: their indices within the stages; else None.
        position: position in residual blocks; None for the outputs of modules.
        options: further options of the block.
    """

    order: int
    block: str
    custom: bool
    ratio: float | None
    stages: list[int] | None
    blocks: list[int] | None
    position: Any
    options: dict[str, Any]


@dataclass(frozen=True)
class Installed:
    """One inserted block; its module stores it as `context_insertion`.

    Attributes:
        request: the call of `insert`.
        layout: layout of the module's output.
    """

    request: InsertRequest
    layout: Layout


def install(module: nn.Module, context: nn.Module, installed: Installed) -> None:
    """Add a block to a module.

    Args:
        module: the module.
        context: the block, on the device and in the dtype of the module.
        installed: how it is inserted.
    """
    if installed.request.position is None:
        attach(module, context, installed)
    else:
        into_residual(module, context, installed.request.position)
    vars(module)["context_insertion"] = installed


def uninstall(module: nn.Module) -> None:
    """Remove the block of `module`, which is then as before the insertion."""
    if isinstance(module, Positioned):
        out_of_residual(module)
    else:
        detach(module)
    del vars(module)["context_insertion"]


def check_no_context(name: str, module: nn.Module) -> None:
    """Check that a module has no context block and no other child named `context`.

    Args:
        name: of the module, for errors.
        module: the module.

    Raises:
        UserError: it has one.
    """
    if is_installed(module):
        raise UserError(f"{name} already has a context block, and a module takes only one; gcnet.remove removes it")
    if "context_insertion" in vars(module):
        raise UserError(f"{name} has a block whose forward hook was cleared, so it does not run: gcnet.remove it first")
    if hasattr(module, "context"):
        raise UserError(f"a block becomes the child `context` of its module, but {name} already has a `context`")


def is_installed(module: nn.Module) -> bool:
    """Whether `module` runs an inserted block."""
    return is_attached(module) or ("context_insertion" in vars(module) and isinstance(module, Positioned))


def check_network(model: object) -> None:
    """Check that `model` is an `nn.Module` and not its name, class or weights.

    Raises:
        UserError: it is not.
    """
    if not isinstance(model, nn.Module):
        shown = f'"{model}"' if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)
        raise UserError(f"the network must be an nn.Module, such as one of gcnet.create_model; found {shown}")


def installed_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Iterate over the modules that run an inserted block.

    Args:
        model: the network.

    Yields:
        Name and module.

    Raises:
        UserError: `model` is not a module.
    """
    check_network(model)
    return ((name, module) for name, module in model.named_modules() if is_installed(module))


def build_device(model: nn.Module, name: str) -> torch.device:
    """Return the device to build a block on: CPU, or meta if the parameters of the module are there.

    Args:
        model: the network.
        name: of the module.
    """
    example = _nearest_float(model, name)
    return torch.device("cpu" if example is None or not example[0].is_meta else "meta")


def match_module(context: nn.Module, model: nn.Module, name: str) -> nn.Module:
    """Move a block to the device, dtype and mode of a module: of its own tensors, or those of the nearest parent.

    Args:
        context: the block.
        model: the network.
        name: of the module.

    Returns:
        The block.
    """
    nearest = _nearest_float(model, name)
    if nearest is None:
        return context.to(dtype=torch.get_default_dtype()).train(model.training)
    example, training = nearest
    return context.to(device=example.device, dtype=example.dtype).train(training)


def _nearest_float(model: nn.Module, name: str) -> tuple[Tensor, bool] | None:
    """A floating-point tensor of the module or its nearest parent with one, and the mode of that."""
    while True:
        holder = model.get_submodule(name)
        for tensor in chain(holder.parameters(), holder.buffers()):
            if tensor.is_floating_point():
                return tensor, holder.training
        if not name:
            return None
        name = name.rpartition(".")[0]


def next_order(model: nn.Module) -> int:
    """Return the index of the next call of `insert` on `model`."""
    return 1 + max((_installed(module).request.order for _, module in installed_modules(model)), default=-1)


def inserted(model: nn.Module) -> tuple[Insertion, ...]:
    """List the inserted blocks of a network.

    Args:
        model: the network.

    Returns:
        One `Insertion` per call of `insert`, with its sites and added parameters.

    Example:
        >>> from torchvision.models import resnet18
        >>> model = resnet18()
        >>> insertion = gcnet.insert(model, "gc", stages=(4, 5))
        >>> [site.name for site in inserted(model)[0].sites]
        ['layer3.0', 'layer3.1', 'layer4.0', 'layer4.1']
    """
    return tuple(
        describe(calls[0].request, [(name, model.get_submodule(name)) for name in names])
        for calls, names in _by_call(model)
    )


def describe(request: InsertRequest, modules: Sequence[tuple[str, nn.Module]]) -> Insertion:
    """Return the `Insertion` of one call.

    Args:
        request: the call.
        modules: names and modules that run its blocks.
    """
    sites = []
    for name, module in modules:
        layout = _installed(module).layout
        obstacle = vars(module).get("fusion_obstacle")
        site = Site(
            name,
            layout.channels,
            _count_parameters(_context(module)),
            layout.form,
            is_fused=None if obstacle is None else not obstacle,
            obstacle=obstacle or "",
        )
        sites.append(site)
    return Insertion(request.block, request.position, tuple(sites), request.ratio)


def insertion_records(model: nn.Module) -> list[dict[str, Any]]:
    """Return the arguments and sites of every call of `insert` in JSON values, for files that rebuild `model`."""
    records = []
    for calls, names in _by_call(model):
        record = asdict(calls[0].request)
        del record["order"]
        layouts = [asdict(call.layout) for call in calls]
        for layout in layouts:
            if not layout["suffix"]:  # Older versions cannot read it; most files do not need it.
                del layout["suffix"]
        record["places"] = [{"name": name, **layout} for name, layout in zip(names, layouts, strict=True)]
        records.append(record)
    return records


def context_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return names and parameters of all inserted blocks of `model`, for training them alone or at their own learning
    rate.
    """
    return [
        (f"{name}.context.{parameter_name}" if name else f"context.{parameter_name}", parameter)
        for name, module in installed_modules(model)
        for parameter_name, parameter in _context(module).named_parameters()
    ]


def remove(model: nn.Module, what: Insertion | str | Sequence[str] | None = None) -> None:
    """Remove inserted blocks.

    Args:
        model: the network; without blocks it is identical to the network before the first `insert`.
        what: one of `inserted(model)`, or names or patterns of sites ("layer3.*"); None for all blocks, including those
            whose forward hook was cleared.

    Raises:
        UserError: no inserted block has such a name. Nothing is removed then.
    """
    check_network(model)
    refuse_fused(model, "changed")
    holders = {name: module for name, module in model.named_modules() if _holds_block(module)}
    if what is None:
        chosen = set(holders)
    else:
        wanted = [site.name for site in what.sites] if isinstance(what, Insertion) else what
        chosen = set()
        for pattern in [wanted] if isinstance(wanted, str) else wanted:
            matching = {pattern} & set(holders) or {name for name in holders if fnmatchcase(name, pattern)}
            if not matching:
                raise UserError(f'there is no inserted block at "{pattern}"; blocks: {", ".join(holders) or "none"}')
            chosen |= matching
    contexts = [holders[name]._modules.get("context") for name in chosen]
    for name in chosen:
        uninstall(holders[name])
    for module in model.modules():  # Fused modules hold hooks of the blocks of their parts.
        forget(module, contexts)
    keep_padding(model, {module for _, module in installed_modules(model)})


def _holds_block(module: nn.Module) -> bool:
    return is_installed(module) or "context_insertion" in vars(module)


def _installed(module: nn.Module) -> Installed:
    return vars(module)["context_insertion"]


def _context(module: nn.Module) -> nn.Module:
    return module.get_submodule("context")


def _count_parameters(context: nn.Module) -> int:
    if isinstance(context, NarrowBlock):
        return context.block_parameters
    return sum(parameter.numel() for parameter in context.parameters())


def refuse_fused(model: nn.Module, action: str) -> None:
    """Refuse an action on a network of `gcnet.fuse`.

    Args:
        model: the network.
        action: in words, such as "saved".

    Raises:
        UserError: the network is fused.
    """
    if any("is_fused" in vars(module) for module in model.modules()):
        raise UserError(f"a network of gcnet.fuse cannot be {action}: use the network that was fused")


def _by_call(model: nn.Module) -> list[tuple[list[Installed], list[str]]]:
    """The blocks of every call of `insert`, in order, and the names of their modules."""
    by_order: dict[int, tuple[list[Installed], list[str]]] = {}
    for name, module in installed_modules(model):
        installed = _installed(module)
        calls, names = by_order.setdefault(installed.request.order, ([], []))
        calls.append(installed)
        names.append(name)
    return [by_order[order] for order in sorted(by_order)]


ALREADY_SCRIPTED = "it is TorchScript, so insert before torch.jit"


def find_obstacle(module: nn.Module) -> str | None:
    """Return why `module` cannot take a block, or None."""
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        return ALREADY_SCRIPTED
    if isinstance(module, nn.modules.batchnorm._NormBase) or "BatchNorm" in kind:
        return f"it is a {kind}, which norm conversions replace"
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return None if len(module) else "it is empty"
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return f"it is a {kind}, whose children may be called one by one"
    return None
