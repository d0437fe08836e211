"""From what `at` says to the modules whose outputs take a block."""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from gcnet.errors import UserError, nearest
from gcnet.models.insertion.installed import installed_modules

At = str | type[nn.Module] | Sequence[str | type[nn.Module]]


def as_list(at: At) -> list[str | type[nn.Module]]:
    """`at` as a list, of which every item is a pattern or a module type."""
    is_one = isinstance(at, str | type | nn.Module) or not isinstance(at, Iterable)
    items: list[Any] = [at] if is_one else list(at)
    for item in items:
        if not isinstance(item, str) and not (inspect.isclass(item) and issubclass(item, nn.Module)):
            found = f"a module itself, {type(item).__name__}" if isinstance(item, nn.Module) else repr(item)
            raise UserError(f"at takes names of modules, patterns of them, or module types; found {found}")
    if not items:
        raise UserError("at must name at least one place, found none")
    return items


def matches(model: nn.Module, item: str | type[nn.Module]) -> list[str]:
    """Names of the modules that a pattern (of names, else the name of a type) or a type means.

    Where one match lies within another, the outer one counts: `layer3.*` means the blocks, not what is in them. What is
    within inserted blocks does not count.

    Raises:
        UserError: nothing matches.
    """
    inner = tuple(f"{name}.context." for name, _ in installed_modules(model))
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    names = [name for name in names if not f"{name}.".startswith(inner)]
    if isinstance(item, str):
        found = [item] if item in names else [name for name in names if fnmatchcase(name, item)]
        found = found or [name for name in names if type(model.get_submodule(name)).__name__ == item]
    else:
        found = [name for name in names if isinstance(model.get_submodule(name), item)]
    if not found:
        raise _nothing(model, item, names)
    chosen = set(found)
    return [name for name in found if chosen.isdisjoint(_holders(name))]


def resolve(model: nn.Module, name: str) -> str:
    """The module that takes the block for the output of `name`: of a plain Sequential its last child.

    A child added to a Sequential would run twice, by its iteration and by the hook.

    Raises:
        UserError: a module that cannot take a block, with what to name instead.
    """
    module = model.get_submodule(name)
    problem = unfit(module)
    if problem is None and any(
        isinstance(model.get_submodule(holder), torch.jit.ScriptModule) for holder in ("", *_holders(name))
    ):
        problem = _SCRIPTED
    if problem is not None:
        raise UserError(f"{name} cannot take a block: {problem}{_instead(model, name)}")
    return resolve(model, f"{name}.{list(module._modules)[-1]}") if isinstance(module, nn.Sequential) else name


_SCRIPTED = "TorchScript is compiled already, so insert before torch.jit"


def unfit(module: nn.Module) -> str | None:
    """Why a module cannot take a block, or None."""
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        return _SCRIPTED
    if isinstance(module, nn.modules.batchnorm._NormBase) or "BatchNorm" in kind:
        return f"it is a {kind}, which conversions of norms replace"
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return None if len(module) else "it is empty"
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return f"it is a {kind}, whose children may be run one by one, the block with them"
    return None


def _instead(model: nn.Module, name: str) -> str:
    """The tail of the sentence: what to name."""
    module = model.get_submodule(name)
    if isinstance(module, torch.jit.ScriptModule):
        return ""
    if isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential):
        return f'; name a module within it, such as "{name}.{next(iter(module._modules))}"' if len(module) else ""
    holder = name.rpartition(".")[0]
    while holder and (unfit(model.get_submodule(holder)) or isinstance(model.get_submodule(holder), nn.Sequential)):
        holder = holder.rpartition(".")[0]
    return f"; name the module that holds it, {holder}" if holder else "; name the module before it"


def _nothing(model: nn.Module, item: str | type, names: Sequence[str]) -> UserError:
    if not names:
        return UserError(f"at names modules within the network, and {type(model).__name__} has none")
    kinds = sorted({type(model.get_submodule(name)).__name__ for name in names})
    if isinstance(item, type):
        return UserError(f"no module in the network is a {item.__name__} (at); it has {_first(kinds)}")
    proposal = nearest(item, [*names, *kinds]) or f"; there are {_first(names)}"
    return UserError(f'no module name matches "{item}"{proposal}')


def _first(names: Iterable[str], count: int = 8) -> str:
    listed = list(names)
    return ", ".join(listed[:count]) + (f", ... ({len(listed)} in all)" if len(listed) > count else "")


def _holders(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
