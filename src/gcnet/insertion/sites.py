"""Choice of insertion sites: by name, by stage or by default, and the layout of each."""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import torch
from torch import nn

from gcnet.errors import UserError, nearest, unknown
from gcnet.insertion.attach import ALREADY_SCRIPTED, find_obstacle, installed_modules
from gcnet.insertion.default_sites import default_sites
from gcnet.insertion.dry_run import DryRun, run_once
from gcnet.insertion.families import (
    Candidate,
    check_position,
    choose,
    default_stages,
    family_candidates,
    position_child,
    residual_candidates,
    residual_family,
    stage_of,
)
from gcnet.insertion.layout import LAYOUTS, Axes, Layout

At = str | type[nn.Module] | Sequence[str | type[nn.Module]]


def as_list(at: At) -> list[str | type[nn.Module]]:
    """Return `at` as a list of patterns and module types.

    Raises:
        UserError: something else in it, or an empty list.
    """
    is_one = isinstance(at, str | type | nn.Module) or not isinstance(at, Iterable)
    items: list[Any] = [at] if is_one else list(at)
    for item in items:
        if not isinstance(item, str) and not (inspect.isclass(item) and issubclass(item, nn.Module)):
            shown = f"a module, {type(item).__name__}" if isinstance(item, nn.Module) else repr(item)
            raise UserError(f"`at` takes module names, patterns, or module types; found {shown}")
    if not items:
        raise UserError("`at` must name at least one module, found none")
    return items


def matches(model: nn.Module, item: str | type[nn.Module]) -> list[str]:
    """Find the modules that a pattern (of names, else the name of a type) or a type matches.

    Of nested matches only the outer counts: `layer3.*` means the blocks, not their children. Modules inside inserted
    blocks do not count.

    Args:
        model: the network.
        item: a pattern or a module type.

    Returns:
        Names of modules.

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
    """Find the module that takes the block for the output of a module: the last child of a plain Sequential.

    A child added to a Sequential would run twice, by its iteration and by the hook.

    Args:
        model: the network.
        name: of the module.

    Returns:
        Name of the module.

    Raises:
        UserError: the module cannot take a block; the message names an alternative.
    """
    module = model.get_submodule(name)
    problem = find_obstacle(module)
    if problem is None and any(
        isinstance(model.get_submodule(holder), torch.jit.ScriptModule) for holder in ("", *_holders(name))
    ):
        problem = ALREADY_SCRIPTED
    if problem is not None:
        raise UserError(f"{name} cannot take a block: {problem}{_instead(model, name)}")
    return resolve(model, f"{name}.{list(module._modules)[-1]}") if isinstance(module, nn.Sequential) else name


def _instead(model: nn.Module, name: str) -> str:
    """The end of the message, with an alternative."""
    module = model.get_submodule(name)
    if isinstance(module, torch.jit.ScriptModule):
        return ""
    if isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential):
        return f'; use a module within it, such as "{name}.{next(iter(module._modules))}"' if len(module) else ""
    holder = name.rpartition(".")[0]
    while holder and (
        find_obstacle(model.get_submodule(holder)) or isinstance(model.get_submodule(holder), nn.Sequential)
    ):
        holder = holder.rpartition(".")[0]
    return f"; use its parent, {holder}" if holder else "; use the module before it"


def _nothing(model: nn.Module, item: str | type, names: Sequence[str]) -> UserError:
    if not names:
        return UserError(f"`at` needs modules inside the network, but {type(model).__name__} has none")
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


_RATIOS = (16, 8, 4, 2)
_LEAST_WIDTH = 4  # channels of a bottleneck: LayerNorm over fewer leaves little


@dataclass(frozen=True)
class SiteChoice:
    """Chosen insertion sites, in network order.

    Attributes:
        sites: layouts by module name.
        position: position in residual blocks; None for the outputs of modules.
        stages: their stages, if chosen by stage.
        default_ratio: ratio if none is given; None for the block's own.
        run: the dry run; None if the sites come from a file or from other blocks.
    """

    sites: dict[str, Layout]
    position: str | None
    stages: list[int] | None
    default_ratio: float | None
    run: DryRun | None


class SiteChooser:
    """Chooses insertion sites in one network.

    Args:
        model: the network.
        example: `example_input` of `insert`.
        layout: as for `insert`.
        prefix_tokens: as for `insert`.

    Raises:
        UserError: an unknown layout, or an invalid number of tokens.
    """

    def __init__(self, model: nn.Module, example: Any, *, layout: str | None = None, prefix_tokens: Any = None) -> None:
        if layout is not None and layout not in LAYOUTS:
            raise unknown("layout", layout, LAYOUTS)
        self._model = model
        self._example = example
        self._layout_name = layout
        self._extra_tokens = None if prefix_tokens is None else _at_both_ends(prefix_tokens)
        found = residual_candidates(model)
        self._family = residual_family(model.get_submodule(found[0].name)) if found else None
        # Some networks of other families have residual blocks in their stem.
        if self._family is None or all(site.stage not in self._family.default_stages for site in found):
            found, self._family = [], None
        self._residual = found

    def by_stage(self, stages: Sequence[int] | None, blocks: Sequence[int] | None, position: str | None) -> SiteChoice:
        """Choose blocks of the stages of a known family, or the default sites of any network.

        Args:
            stages: stages; None for the default.
            blocks: indices within each stage; None for all.
            position: position in residual blocks; None for the default.

        Returns:
            The sites.

        Raises:
            UserError: an unknown stage or index, or stages of a network without stages.
        """
        candidates = self._candidates
        if not candidates:
            if stages is not None or blocks is not None:
                raise UserError(
                    f"`stages` and `blocks` need known stages, but {type(self._model).__name__} has none: use `at`"
                )
            return self._choice(default_sites(self._model, self._run, self._axes), position)
        if stages is None:
            usual = default_stages(candidates) if self._family is None else self._family.default_stages
            there = {candidate.stage for candidate in candidates}
            chosen = choose(candidates, [stage for stage in usual if stage in there], blocks)
        else:
            chosen = choose(candidates, stages, blocks)
        if self._family is not None:
            position = position or "after_norm"
            if stages is None and blocks is None:
                chosen = self._called(chosen)
        names = [candidate.name for candidate in chosen]
        return self._choice(names, position, sorted({candidate.stage for candidate in chosen}))

    def by_name(self, at: At, position: str | None) -> SiteChoice:
        """Choose the modules that `at` matches.

        Args:
            at: names, patterns, types or stages.
            position: position in residual blocks; None for the default.

        Returns:
            The sites.

        Raises:
            UserError: nothing matches, or a module cannot take a block.
        """
        items = as_list(at)
        stages = [self._stage(item) for item in items]
        names: list[str] = []
        for item, stage in zip(items, stages, strict=True):
            if stage is None:
                names += [resolve(self._model, name) for name in matches(self._model, item)]
            else:
                names += [candidate.name for candidate in choose(self._candidates, [stage], None)]
        if self._residual and None not in stages:
            position = position or "after_norm"
        own = {id(module): name for name, module in self._model.named_modules()}  # the first of a module's names
        chosen = {own[id(self._model.get_submodule(name))] for name in names}
        return self._choice([name for name in own.values() if name in chosen], position)

    def _stage(self, item: object) -> int | None:
        """The stage that "c3" means in a network of a known family, unless a module has that name."""
        stage = stage_of(item)
        named = any(name == item for name, _ in self._model.named_modules())
        return None if stage is None or named or not self._candidates else stage

    @cached_property
    def _run(self) -> DryRun:
        return run_once(self._model, self._example)

    @cached_property
    def _residual_run(self) -> DryRun:
        """A run in which every residual block returned, or a complete one."""
        names = [candidate.name for candidate in self._residual]
        return run_once(self._model, self._example, names=names, partial=True)

    @cached_property
    def _axes(self) -> Axes:
        return Axes(self._run, self._model, layout=self._layout_name, extra_tokens=self._extra_tokens)

    @cached_property
    def _candidates(self) -> list[Candidate]:
        return self._residual or family_candidates(self._run, self._axes)

    def _called(self, chosen: list[Candidate]) -> list[Candidate]:
        """The candidates that the network calls: it may hold unused stages."""
        called = [candidate for candidate in chosen if self._residual_run.of(candidate.name)]
        if not called:
            raise UserError(
                f"{type(self._model).__name__} calls no residual block as a whole, so blocks inside would not run: use "
                f"`at` with modules that are called, such as {chosen[-1].name}.conv2"
            )
        return called

    def _choice(self, names: list[str], position: str | None, stages: list[int] | None = None) -> SiteChoice:
        usual = None if self._family is None else self._family.default_ratio
        if position is not None:
            sites = {name: self._residual_layout(name, position) for name in names}
            return SiteChoice(sites, position, stages, usual, self._residual_run)
        names = [resolve(self._model, name) for name in names]
        if any(not self._run.of(name) for name in names):
            self._run = run_once(self._model, self._example, names=names)
        sites = {name: self._layout(name) for name in names}
        return SiteChoice(sites, None, stages, usual or narrow_ratio(sites), self._run)

    def _residual_layout(self, name: str, position: str) -> Layout:
        check_position(name, self._model.get_submodule(name), position)
        child = position_child(position)
        calls = self._residual_run.of(f"{name}.{child}" if child else name)
        if not calls:
            raise _not_called(name)
        return Layout(calls[0].output.shape[1])

    def _layout(self, name: str) -> Layout:
        calls = self._run.of(name)
        if not calls:
            raise _not_called(name)
        layouts = {self._axes.layout(call) for call in calls}
        if len(layouts) > 1:
            shapes = ", ".join(sorted({str(tuple(call.tensor.shape)) for call in calls if call.tensor is not None}))
            raise UserError(f"a block takes one shape, but {name} returns several in one run: {shapes}")
        if self._run.is_shared(name):
            raise UserError(
                f"{name} has no parameters and is called {len(calls)} times in one run (a shared activation), so a "
                "block there would act each time: use another module"
            )
        return layouts.pop()


def _at_both_ends(tokens: Any) -> tuple[int, int]:
    """The numbers of extra tokens at the start and at the end, from one number or both."""
    both = (tokens, 0) if isinstance(tokens, int) else tuple(tokens) if isinstance(tokens, Sequence) else ()
    if len(both) != 2 or not all(isinstance(count, int) and count >= 0 for count in both):
        raise UserError(f"`prefix_tokens` must be a number of tokens, or two (start, end); found {tokens!r}")
    return both[0], both[1]


def _not_called(name: str) -> UserError:
    return UserError(f"{name} is not called when the network runs, so a block there would not run")


def narrow_ratio(sites: dict[str, Layout]) -> float:
    """Return 16, or the largest ratio below it that leaves each bottleneck of `sites` four channels."""
    narrowest = min(layout.channels for layout in sites.values())
    return next((ratio for ratio in _RATIOS if narrowest >= _LEAST_WIDTH * ratio), _RATIOS[-1])
