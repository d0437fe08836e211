"""Insertion sites in any network: those that `at` names, before each change of resolution, or after token blocks."""

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from gcnet.errors import UserError, nearest
from gcnet.insertion.attach import installed_modules
from gcnet.insertion.dry_run import Call, DryRun
from gcnet.insertion.heads import answer_modules, reads_all_tokens
from gcnet.insertion.layout import Axes

At = str | type[nn.Module] | Sequence[str | type[nn.Module]]


def as_list(at: At) -> list[str | type[nn.Module]]:
    """`at` as a list, of which every item is a pattern or a module type."""
    is_one = isinstance(at, str | type | nn.Module) or not isinstance(at, Iterable)
    items: list[Any] = [at] if is_one else list(at)
    for item in items:
        if not isinstance(item, str) and not (inspect.isclass(item) and issubclass(item, nn.Module)):
            found = f"a module itself, {type(item).__name__}" if isinstance(item, nn.Module) else repr(item)
            raise UserError(f"`at` takes names of modules, patterns of them, or module types; found {found}")
    if not items:
        raise UserError("`at` must name at least one place, found none")
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


# Maps of a smaller stride are the stem's, and take no block where enough deeper ones do, as the paper's c3 to c5.
_STEM_STRIDE, _ENOUGH = 4, 3
_LEAST_CHANNELS = 4  # The bottleneck of narrower maps would have one channel.
# How much more than halving its sides (as 35 to 17 is) counts as one change of resolution.
_SLACK = 1.5


def default_places(model: nn.Module, run: DryRun, axes: Axes) -> list[str]:
    """The last module of each resolution, or every token block, where these hold more of the parameters.

    Raises:
        UserError: there is neither.
    """
    answers = answer_modules(model, run)
    trunk = [call for call in _trunk(run.calls[0], axes) if call.name not in answers and _fits(call, run)]
    tokens = _token_blocks(run, axes)
    if len(tokens) > 1:
        layout = axes.layout(tokens[-1])
        may_be_unread = layout.prefix + layout.suffix or not isinstance(tokens[-1].output, Tensor)
        if may_be_unread and not reads_all_tokens(model, run, tokens[-1].name, layout):
            del tokens[-1]  # What a block did to the other tokens there would be read by nothing.
    in_maps, in_tokens = (_size({call.module for call in calls}) for calls in (trunk, tokens))
    places = _last_of_resolutions(_without_logits(trunk, run, axes), axes, run)
    if tokens and (in_tokens > in_maps or not places):
        places = [call.name for call in tokens]
    if not places:
        raise UserError(
            f"found no place for a block in {type(model).__name__}, neither a map before a change of resolution nor "
            "blocks of tokens: give `at`"
        )
    return list(dict.fromkeys(places))


def _fits(call: Call, run: DryRun) -> bool:
    """Whether a block can go there: one shape, wide enough, and no activation that is used elsewhere too."""
    calls = run.of(call.name)
    shapes = {getattr(other.tensor, "shape", None) for other in calls}
    width = 0 if call.tensor is None else max(call.tensor.shape[1], call.tensor.shape[-1])
    return len(shapes) == 1 and width >= _LEAST_CHANNELS and not run.is_shared(call.name)


def _size(modules: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _token_blocks(run: DryRun, axes: Axes) -> list[Call]:
    """The outermost modules of a type that is repeated with the same tokens coming out."""
    kinds: dict[Call, tuple[type, tuple[int, ...]]] = {}
    for call in run.calls:
        fit = unfit(call.module) is None and not isinstance(call.module, nn.Sequential)
        output = call.tensor
        if call.children and fit and output is not None and _is_tokens(call, axes) and output.shape[1] > 1:
            kinds[call] = (type(call.module), tuple(output.shape))
    repeated = Counter(kind for _, kind in {(call.name, kind) for call, kind in kinds.items()})
    blocks = {call: kind for call, kind in kinds.items() if repeated[kind] > 1}
    return [call for call in blocks if not any(holder in blocks for holder in call.ancestors())]


def _without_logits(trunk: list[Call], run: DryRun, axes: Axes) -> list[Call]:
    """The trunk without maps of the logits at its end, which some classifiers make before they pool."""
    logits = getattr(run.calls[0].output, "shape", ())[1:]
    kept = list(trunk)
    while kept and _channels(kept[-1], axes) == tuple(logits):
        kept.pop()
    lost = {_spatial(call, axes) for call in trunk[len(kept) :]}
    left = {_spatial(call, axes) for call in kept if _size([call.module])}
    return kept if all(spatial in left or _positions(spatial) == 1 for spatial in lost) else trunk


def _channels(call: Call, axes: Axes) -> tuple[int, ...]:
    return () if call.tensor is None else (call.tensor.shape[-1 if axes.channels_last(call) else 1],)


def _last_of_resolutions(trunk: list[Call], axes: Axes, run: DryRun) -> list[str]:
    """The last module of every resolution that has parameters, without the stem's."""
    width = sum(_input_spatial(run.calls[0])[-1:])
    ends: list[tuple[str, float]] = []
    for spatial, group in groupby(trunk, lambda call: _spatial(call, axes)):
        calls = list(group)
        fit = [name for name in (_end(call, axes, run) for call in calls) if name is not None]
        if spatial and fit and _positions(spatial) > 1 and _size(call.module for call in calls):
            ends.append((fit[-1], width / spatial[-1]))
    deep = [name for name, stride in ends if round(stride) >= _STEM_STRIDE]
    return deep if len(set(deep)) >= _ENOUGH else [name for name, _ in ends]


def _trunk(call: Call, axes: Axes) -> Iterator[Call]:
    """The calls that give maps, outermost first; one that changes the resolution more than once is looked into."""
    current: int | None = None
    for child in call.children:
        spatial = _spatial(child, axes)
        if spatial is None:
            if child.children and not _is_tokens(child, axes, of_input=True):
                yield from _trunk(child, axes)
            continue
        positions = _positions(spatial)
        before = _positions(_input_spatial(child)) if current is None else current
        step = _SLACK * 2 ** len(spatial)
        if child.children and not positions * step >= before >= positions / step:
            yield from _trunk(child, axes)
        else:
            yield child
        current = positions


def _spatial(call: Call, axes: Axes) -> tuple[int, ...] | None:
    """The axes of positions of a call that gives a map, else None."""
    output = call.tensor
    if output is None or not 3 <= output.dim() <= 5 or _is_tokens(call, axes):
        return None
    return tuple(output.shape[1:-1] if axes.channels_last(call) else output.shape[2:])


def _input_spatial(call: Call) -> tuple[int, ...]:
    return next((tuple(tensor.shape[2:]) for tensor in call.inputs if tensor.dim() >= 3), ())


def _is_tokens(call: Call, axes: Axes, *, of_input: bool = False) -> bool:
    if of_input:
        return any(tensor.dim() == 3 and axes.taken_last(tensor) for tensor in call.inputs)
    return call.tensor is not None and call.tensor.dim() == 3 and axes.channels_last(call)


def _positions(spatial: tuple[int, ...] | None) -> int:
    count = 1
    for side in spatial or ():
        count *= side
    return count


def _end(call: Call, axes: Axes, run: DryRun) -> str | None:
    """The module that can take a block for the output of the call: of a Sequential the last within it that can."""
    if not isinstance(call.module, nn.Sequential):
        return call.name if unfit(call.module) is None and _fits(call, run) else None
    same = (child for child in reversed(call.children) if _spatial(child, axes) == _spatial(call, axes))
    return next((name for name in (_end(child, axes, run) for child in same) if name is not None), None)
