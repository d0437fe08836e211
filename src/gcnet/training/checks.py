"""Validation helpers for settings."""

from collections.abc import Sequence
from typing import Any

from gcnet.errors import UserError


def check(condition: bool, sentence: str) -> None:
    """Raise unless `condition` holds.

    Args:
        condition: to hold.
        sentence: the error message.

    Raises:
        UserError: it does not hold.
    """
    if not condition:
        raise UserError(sentence)


def refuse_changed(group: Any, names: Sequence[str], owner: str, network: str) -> None:
    """Refuse settings that have no effect on this kind of network.

    Args:
        group: a dataclass of settings.
        names: fields of it that must have their default.
        owner: kind of network that the fields are for, such as "detectors".
        network: which network this is, such as "resnet18 is a classifier".

    Raises:
        UserError: for the first of `names` that is not the default.
    """
    default = type(group)()
    for name in names:
        value = getattr(group, name)
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        check(value == getattr(default, name), f"`{name}={shown}` is only for {owner}, but {network}")
