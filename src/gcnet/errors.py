"""Usage errors: one clear sentence, with the nearest valid name."""

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

_SIMILAR = 0.6  # below this, a suggestion misleads more often than it helps
_LISTED = 30


class UserError(ValueError):
    """A usage error; its text is one sentence with the rule, the expected and the found value."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Suggestion to append to a sentence: the valid name most similar to `name`, or "" where none is similar."""
    by_lower = {candidate.lower(): candidate for candidate in valid}
    matches = get_close_matches(name.lower(), list(by_lower), n=1, cutoff=_SIMILAR)
    return f'; did you mean "{by_lower[matches[0]]}"?' if matches else ""


def nearest_path(path: str | Path) -> str:
    """Suggestion to append to a sentence: an existing path whose parts are similar to those of `path`, or ""."""
    wanted = Path(path)
    existing = wanted
    while not existing.is_dir() and existing != existing.parent:
        existing = existing.parent
    for part in wanted.relative_to(existing).parts:
        names = sorted(os.listdir(existing)) if existing.is_dir() else []
        matches = [part] if part in names else get_close_matches(part, names, n=1, cutoff=_SIMILAR)
        if not matches:
            return ""
        existing = existing / matches[0]
    return f'; did you mean "{printable(existing)}"?'


def unknown(kind: str, name: str, valid: Iterable[str], *, listed: int = _LISTED) -> UserError:
    """Error for a name that is not among the valid ones.

    Args:
        kind: what the name is of, such as "block".
        name: the unknown name.
        valid: all valid names.
        listed: number of valid names up to which all are listed; of more, the first ones and only where none is
            similar to `name`.

    Returns:
        The error, with the most similar valid name.
    """
    names = list(valid)
    suggestion = nearest(name, names)
    start = f'unknown {kind} "{name}"{suggestion or ";"}'
    if len(names) <= listed:
        return UserError(f"{start} valid: {', '.join(names) or 'none'}")
    if suggestion:
        return UserError(start)
    return UserError(f"{start} valid: {', '.join(names[:listed])}, ... ({len(names)} in all)")


def printable(name: str | Path) -> str:
    """The name with control characters, line breaks and undecodable bytes escaped, safe to print to a terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(name))
