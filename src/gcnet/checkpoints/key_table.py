"""Key tables of whole networks: keys and tensors of another library to ours, and back."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from gcnet.checkpoints.source import RESTORED, Table
from gcnet.errors import UserError, printable

Change = Callable[[Tensor], Tensor]


def unchanged(tensor: Tensor) -> Tensor:
    """Return `tensor`, of any shape () to (out, in, ...), itself."""
    return tensor


@dataclass(frozen=True)
class Rule:
    """One line of a key table.

    In both patterns `#` stands for a number and `*` for the rest of the key; each pattern has the same ones in the same
    order.

    Attributes:
        theirs: pattern of the other library's keys.
        ours: pattern of our keys.
        to_ours: what happens to the tensor.
        to_theirs: its inverse.
    """

    theirs: str
    ours: str
    to_ours: Change = unchanged
    to_theirs: Change = unchanged


def block_rules(theirs: str, ours: str, table: Table, dims: int = 2) -> list[Rule]:
    """Return the rules of a block within a network, from the key table of the block alone.

    Args:
        theirs: pattern of the keys of the block in the other library, without the dot at its end.
        ours: pattern of our block.
        table: of the block.
        dims: number of spatial axes of the block's maps.
    """
    return [
        Rule(f"{theirs}.{name}", f"{ours}.{own}", reshape, _restoring(reshape, dims))
        for name, (own, reshape) in table.items()
    ]


def _restoring(reshape: Change, dims: int) -> Change:
    return lambda tensor: RESTORED[reshape](tensor, dims)


class KeyTable:
    """An ordered list of rules, of which the first that matches a key applies.

    Args:
        rules: the rules.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        rules = list(rules)
        self._to_ours = [(_compiled(rule.theirs), _template(rule.ours), rule.to_ours) for rule in rules]
        self._to_theirs = [(_compiled(rule.ours), _template(rule.theirs), rule.to_theirs) for rule in rules]

    def to_ours(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors by our keys.

        Args:
            tensors: by keys of the other library, each of which has a rule.
        """
        return dict(_changed(key, tensor, self._to_ours) for key, tensor in tensors.items())

    def to_theirs(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors by keys of the other library.

        Args:
            tensors: by our keys.

        Raises:
            UserError: the other library has no counterpart of a key.
        """
        return dict(_changed(key, tensor, self._to_theirs) for key, tensor in tensors.items())


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)"))


def _template(pattern: str) -> str:
    return pattern.replace("#", "{}").replace("*", "{}")


def _changed(key: str, tensor: Tensor, rules: list[tuple[re.Pattern[str], str, Change]]) -> tuple[str, Tensor]:
    for pattern, template, change in rules:
        match = pattern.fullmatch(key)
        if match is not None:
            return template.format(*match.groups()), change(tensor)
    raise UserError(f"the weights {printable(key)} have no counterpart in the other library")
