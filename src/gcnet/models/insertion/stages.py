"""Choosing among blocks of a network by stage and by index within the stage."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral

from gcnet.errors import UserError

_WORD = re.compile(r"c(\d+)")


@dataclass(frozen=True)
class Candidate:
    """A module that can take a context block: its stage (in the paper's numbers, 4 for c4), its index within it."""

    name: str
    stage: int
    index: int


def stage_of(word: object) -> int | None:
    """4 of "c4"; None of what is no stage's word."""
    match = _WORD.fullmatch(word) if isinstance(word, str) else None
    return int(match[1]) if match else None


def choose(
    candidates: Sequence[Candidate],
    stages: Sequence[int],
    blocks: Sequence[int] | None,
) -> list[Candidate]:
    """The candidates of `stages` with the indices `blocks` (None: all), in network order.

    Raises:
        UserError: a stage or an index that is not there, or nothing chosen.
    """
    _require_whole("stages", stages)
    _require_whole("blocks", () if blocks is None else blocks)
    there = sorted({candidate.stage for candidate in candidates})
    chosen = []
    for stage in dict.fromkeys(stages):
        members = [candidate for candidate in candidates if candidate.stage == stage]
        if not members:
            raise UserError(f"stages must be among {', '.join(map(str, there))} for this network, found {stage}")
        count = len(members)
        for index in range(count) if blocks is None else blocks:
            if not -count <= index < count:
                raise UserError(f"blocks must be indices from 0 to {count - 1} in stage {stage}, found {index}")
        indices = range(count) if blocks is None else sorted({index % count for index in blocks})
        chosen += [members[index] for index in indices]
    if not chosen:
        raise UserError("stages and blocks must name at least one residual block, found none")
    return sorted(chosen, key=candidates.index)


def _require_whole(name: str, numbers: object) -> None:
    is_list = isinstance(numbers, Iterable) and not isinstance(numbers, str)
    if not is_list or not all(isinstance(number, Integral) for number in numbers):
        raise UserError(f"{name} must be whole numbers, such as (3, 4), found {numbers!r}")
