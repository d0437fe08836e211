"""What settings of a run refuse, each in one sentence."""

from collections.abc import Sequence
from typing import Any

from gcnet.errors import UserError


def require(condition: bool, sentence: str) -> None:
    """Refuse settings that contradict each other or make no sense.

    Raises:
        UserError: `sentence`, where `condition` does not hold.
    """
    if not condition:
        raise UserError(sentence)


def refuse_changed(group: Any, names: Sequence[str], owner: str) -> None:
    """Refuse settings of a group that would have no effect.

    Raises:
        UserError: for the first of `names` that is not the default; `owner` says what it belongs to.
    """
    usual = type(group)()
    for name in names:
        value = getattr(group, name)
        require(
            value == getattr(usual, name), f"{flag(name)} belongs to {owner}, and --model names none; found {value}"
        )


def flag(name: str) -> str:
    """A setting as the command line has it."""
    return "--" + name.replace("_", "-")
