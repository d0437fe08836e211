"""Mistakes of the user, said in one clear sentence."""

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class UserError(ValueError):
    """A mistake the user can mend; its text is one sentence with the rule, what was expected and what was found."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """The tail of a sentence that proposes the valid name closest to `name`, or an empty string if none is close."""
    matches = get_close_matches(name.lower(), list(valid), n=1, cutoff=0.5)
    return f'; did you mean "{matches[0]}"?' if matches else ""


def nearest_path(path: str | Path) -> str:
    """As `nearest`, for a path where nothing is: its first missing part is compared with what lies beside it."""
    missing = Path(path)
    while not missing.parent.is_dir():
        missing = missing.parent
    matches = get_close_matches(missing.name, sorted(os.listdir(missing.parent)), n=1, cutoff=0.5)
    return f'; did you mean "{missing.parent / matches[0] / Path(path).relative_to(missing)}"?' if matches else ""


def unknown(kind: str, name: str, valid: Iterable[str], *, listed: int = 20) -> UserError:
    """The error for a name that is not in `valid`: the nearest valid name, then the valid ones (the first `listed`)."""
    names = list(valid)
    shown = ", ".join(names[:listed]) + (f", ... ({len(names)} in all)" if len(names) > listed else "")
    proposal = nearest(name, names)
    return UserError(f'unknown {kind} "{name}"{proposal or ";"} valid: {shown or "none"}')


def printable(name: str | Path) -> str:
    """The name with what is no text escaped: a file's name may hold line breaks and bytes of any kind."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(name))
