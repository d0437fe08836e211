"""Blocks attached to modules: by a forward hook or in a residual block; listed, described and removed."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from gcnet.errors import UserError
from gcnet.insertion.families import into_residual, out_of_residual
from gcnet.insertion.layout import Layout
from gcnet.insertion.record import Insertion, Place
from gcnet.insertion.residual_blocks.position import Positioned

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


_SAVED = "use_nested_tensor_without_context"


def keep_padding(model: nn.Module, holds_block: set[nn.Module]) -> None:
    """Turn nested tensors off in the encoders that hold a block, and on again in those that no longer do.

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
class Request:
    """What one call of `insert` was told, in values that JSON can hold.

    Args:
        order: counts the calls on one network.
        custom: `block` names a builder of the user's own.
        stages, blocks: of residual blocks, which were chosen; else None.
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
    """One inserted block; its module keeps this as `context_insertion`."""

    request: Request
    layout: Layout


def install(module: nn.Module, context: nn.Module, installed: Installed) -> None:
    """Put the block into the module, on its device, in its dtype and mode."""
    if installed.request.position is None:
        attach(module, context, installed)
    else:
        into_residual(module, context, installed.request.position)
    vars(module)["context_insertion"] = installed


def uninstall(module: nn.Module) -> None:
    """Take the block out again; the module is then as it was."""
    if isinstance(module, Positioned):
        out_of_residual(module)
    else:
        detach(module)
    del vars(module)["context_insertion"]


def require_room(name: str, module: nn.Module) -> None:
    """Raise UserError where the name `context` is taken."""
    if is_installed(module):
        raise UserError(f"a module takes one context block, and {name} has one already; gcnet.remove takes it out")
    if "context_insertion" in vars(module):
        raise UserError(f"{name} has a block whose forward hook was cleared, so it does not run: gcnet.remove it first")
    if hasattr(module, "context"):
        raise UserError(f"the block becomes the child `context` of its module, and {name} has a `context` of its own")


def is_installed(module: nn.Module) -> bool:
    """Whether the module runs an inserted block."""
    return is_attached(module) or ("context_insertion" in vars(module) and isinstance(module, Positioned))


def require_network(model: object) -> None:
    """Check that a network is given and not its name, its class or its weights.

    Raises:
        UserError: it is none.
    """
    if not isinstance(model, nn.Module):
        found = f'"{model}"' if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)
        raise UserError(f"the network must be an nn.Module, as gcnet.create_model builds by name; found {found}")


def installed_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of the network that run an inserted block."""
    require_network(model)
    return ((name, module) for name, module in model.named_modules() if is_installed(module))


def build_device(model: nn.Module, name: str) -> torch.device:
    """Where to build a block for this module: on the CPU, or without values where its parameters have none."""
    example = _nearest_float(model, name)
    return torch.device("cpu" if example is None or not example[0].is_meta else "meta")


def match_host(context: nn.Module, model: nn.Module, name: str) -> nn.Module:
    """The block in the device, dtype and mode of the module: its own parameters', or those of what holds it."""
    found = _nearest_float(model, name)
    if found is None:
        return context.to(dtype=torch.get_default_dtype()).train(model.training)
    example, training = found
    return context.to(device=example.device, dtype=example.dtype).train(training)


def _nearest_float(model: nn.Module, name: str) -> tuple[Tensor, bool] | None:
    """A floating-point tensor of the module, else of the nearest module that holds it and has one, and its mode."""
    while True:
        holder = model.get_submodule(name)
        for tensor in chain(holder.parameters(), holder.buffers()):
            if tensor.is_floating_point():
                return tensor, holder.training
        if not name:
            return None
        name = name.rpartition(".")[0]


def next_order(model: nn.Module) -> int:
    """The number of the next call of `insert` on this network."""
    return 1 + max((_installed(module).request.order for _, module in installed_modules(model)), default=-1)


def inserted(model: nn.Module) -> tuple[Insertion, ...]:
    """The blocks that the network runs: places and added parameters, one `Insertion` for each call of `insert`."""
    return tuple(
        describe(calls[0].request, [(name, model.get_submodule(name)) for name in names])
        for calls, names in _by_call(model)
    )


def describe(request: Request, modules: Sequence[tuple[str, nn.Module]]) -> Insertion:
    """One call's insertion, from the modules that run its blocks."""
    places = []
    for name, module in modules:
        layout = _installed(module).layout
        parameters = sum(parameter.numel() for parameter in _context(module).parameters())
        places.append(Place(name, layout.channels, parameters, layout.form))
    return Insertion(request.block, request.position, tuple(places), request.ratio)


def insertion_records(model: nn.Module) -> list[dict[str, Any]]:
    """What `insert` was told and where its blocks are, call by call, in JSON's values (for files that rebuild it)."""
    records = []
    for calls, names in _by_call(model):
        record = asdict(calls[0].request)
        del record["order"]
        layouts = [asdict(call.layout) for call in calls]
        for layout in layouts:
            if not layout["suffix"]:  # Files of networks without such tokens stay readable by older versions.
                del layout["suffix"]
        record["places"] = [{"name": name, **layout} for name, layout in zip(names, layouts, strict=True)]
        records.append(record)
    return records


def context_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters of all inserted blocks, for training them alone or at a learning rate of their own."""
    return [
        (f"{name}.context.{parameter_name}" if name else f"context.{parameter_name}", parameter)
        for name, module in installed_modules(model)
        for parameter_name, parameter in _context(module).named_parameters()
    ]


def remove(model: nn.Module, what: Insertion | str | Sequence[str] | None = None) -> None:
    """Take inserted blocks out.

    Args:
        model: the network; without any blocks it is what it was before the first `insert`, exactly.
        what: one of `inserted(model)`, or names of places or patterns of them ("layer3.*"); None for all blocks, also
            those whose forward hook was cleared.

    Raises:
        UserError: no inserted block has such a name. Nothing is removed then.
    """
    require_network(model)
    there = {name: module for name, module in model.named_modules() if _holds_block(module)}
    if what is None:
        chosen = set(there)
    else:
        wanted = [place.name for place in what.places] if isinstance(what, Insertion) else what
        chosen = set()
        for pattern in [wanted] if isinstance(wanted, str) else wanted:
            found = {pattern} & set(there) or {name for name in there if fnmatchcase(name, pattern)}
            if not found:
                raise UserError(f'no inserted block is at "{pattern}"; there are {", ".join(there) or "none"}')
            chosen |= found
    contexts = [there[name]._modules.get("context") for name in chosen]
    for name in chosen:
        uninstall(there[name])
    for module in model.modules():  # Fused modules have hooks for the blocks of their parts.
        forget(module, contexts)
    keep_padding(model, {module for _, module in installed_modules(model)})


def _holds_block(module: nn.Module) -> bool:
    return is_installed(module) or "context_insertion" in vars(module)


def _installed(module: nn.Module) -> Installed:
    return vars(module)["context_insertion"]


def _context(module: nn.Module) -> nn.Module:
    return module.get_submodule("context")


def _by_call(model: nn.Module) -> list[tuple[list[Installed], list[str]]]:
    """Of every call of `insert`, in order, its blocks and the names of their modules."""
    found: dict[int, tuple[list[Installed], list[str]]] = {}
    for name, module in installed_modules(model):
        installed = _installed(module)
        calls, names = found.setdefault(installed.request.order, ([], []))
        calls.append(installed)
        names.append(name)
    return [found[order] for order in sorted(found)]
