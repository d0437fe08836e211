"""Chooses insertion sites, and the channels and layout of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from gcnet.errors import UserError, unknown
from gcnet.insertion.dry_run import DryRun, dry_run
from gcnet.insertion.families import (
    Candidate,
    choose,
    default_stages,
    family_candidates,
    position_child,
    require_position,
    residual_candidates,
    residual_family,
    stage_of,
)
from gcnet.insertion.layout import LAYOUTS, Axes, Layout
from gcnet.insertion.sites import At, as_list, default_places, matches, resolve

_RATIOS = (16, 8, 4, 2)
_LEAST_WIDTH = 4  # channels of a bottleneck: LayerNorm over fewer leaves little


@dataclass(frozen=True)
class Choice:
    """Places that `insert` chose, in the order of the network.

    Args:
        places: names of modules, and what a block sees there.
        position: within residual blocks; None for the modules' outputs.
        stages: those of the places, where blocks were chosen by stage.
        default_ratio: of blocks that are given none; None for the block's own.
        run: the dry run; None where the places come from a file or from other blocks.
    """

    places: dict[str, Layout]
    position: str | None
    stages: list[int] | None
    default_ratio: float | None
    run: DryRun | None


class Chooser:
    """Chooses places in one network.

    Args:
        model: the host network.
        example, layout, prefix_tokens: as for `insert`.

    Raises:
        UserError: an unknown layout, or no number of tokens.
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
        # Some networks of another kind have residual blocks in their stem.
        if self._family is None or all(place.stage not in self._family.default_stages for place in found):
            found, self._family = [], None
        self._residual = found

    def by_stage(self, stages: Sequence[int] | None, blocks: Sequence[int] | None, position: str | None) -> Choice:
        """The blocks of stages of a known family; without stages and blocks the default of any network."""
        candidates = self._candidates
        if not candidates:
            if stages is not None or blocks is not None:
                raise UserError(
                    f"`stages` and `blocks` need a network that is built of blocks in stages, and "
                    f"{type(self._model).__name__} is none: give `at`"
                )
            return self._choice(default_places(self._model, self._run, self._axes), position)
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

    def by_name(self, at: At, position: str | None) -> Choice:
        """The modules that `at` means."""
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
        return dry_run(self._model, self._example)

    @cached_property
    def _residual_run(self) -> DryRun:
        """A run in which every residual block returned, or a whole one."""
        names = [candidate.name for candidate in self._residual]
        return dry_run(self._model, self._example, names=names, partial=True)

    @cached_property
    def _axes(self) -> Axes:
        return Axes(self._run, self._model, layout=self._layout_name, extra_tokens=self._extra_tokens)

    @cached_property
    def _candidates(self) -> list[Candidate]:
        return self._residual or family_candidates(self._run, self._axes)

    def _called(self, chosen: list[Candidate]) -> list[Candidate]:
        """Those that the network calls: it may keep a stage that it does not use."""
        called = [candidate for candidate in chosen if self._residual_run.of(candidate.name)]
        if not called:
            raise UserError(
                f"no residual block is called as a whole when {type(self._model).__name__} runs, so blocks within "
                f"them would not run: give `at` with modules that are called, such as {chosen[-1].name}.conv2"
            )
        return called

    def _choice(self, names: list[str], position: str | None, stages: list[int] | None = None) -> Choice:
        usual = None if self._family is None else self._family.default_ratio
        if position is not None:
            places = {name: self._residual_layout(name, position) for name in names}
            return Choice(places, position, stages, usual, self._residual_run)
        names = [resolve(self._model, name) for name in names]
        if any(not self._run.of(name) for name in names):
            self._run = dry_run(self._model, self._example, names=names)
        places = {name: self._layout(name) for name in names}
        return Choice(places, None, stages, usual or narrow_ratio(places), self._run)

    def _residual_layout(self, name: str, position: str) -> Layout:
        require_position(name, self._model.get_submodule(name), position)
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
            found = ", ".join(sorted({str(tuple(call.tensor.shape)) for call in calls if call.tensor is not None}))
            raise UserError(f"a block takes one shape, and {name} gives several in one run: {found}")
        if self._run.is_shared(name):
            raise UserError(
                f"{name} has no parameters and is called {len(calls)} times in one run (a shared activation), so a "
                "block there would act each time: name another module"
            )
        return layouts.pop()


def _at_both_ends(tokens: Any) -> tuple[int, int]:
    """The numbers of extra tokens at the start and at the end, from one number or both."""
    both = (tokens, 0) if isinstance(tokens, int) else tuple(tokens) if isinstance(tokens, Sequence) else ()
    if len(both) != 2 or not all(isinstance(count, int) and count >= 0 for count in both):
        raise UserError(f"`prefix_tokens` is a number of tokens from 0, or two (start, end); found {tokens!r}")
    return both[0], both[1]


def _not_called(name: str) -> UserError:
    return UserError(f"{name} is not called when the network runs, so a block there would not run")


def narrow_ratio(places: dict[str, Layout]) -> float:
    """16, or the largest below it that leaves each bottleneck enough channels."""
    narrowest = min(layout.channels for layout in places.values())
    return next((ratio for ratio in _RATIOS if narrowest >= _LEAST_WIDTH * ratio), _RATIOS[-1])
