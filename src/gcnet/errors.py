"""Usage errors: one clear sentence, with the nearest valid name."""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

_SIMILAR = 0.6  # below this, a suggestion misleads more often than it helps
_LISTED = 30
_NO_MEMORY = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|CUDA out of memory|CUDA error: out of memory"
    r"|CU\w+_STATUS_ALLOC_FAILED|std::bad_alloc|Cannot allocate memory|MemoryError|can't start new thread"
)
_BYTES = re.compile(r"you tried to allocate (\d+) bytes")
_SIZE = re.compile(r"(?:Tried|Unable) to allocate ([\d.]+ \w?i?B)")


class UserError(ValueError):
    """A usage error; its text is one sentence with the rule, the expected and the found value."""


class Failure(UserError):
    """The command is right and something else failed, such as a disk or a loading process: exit code 1, not 2."""


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


def out_of_memory(error: BaseException) -> str | None:
    """What memory an error says is missing, such as "out of memory: could not allocate 768 MiB"; None for any other.

    PyTorch raises a RuntimeError of its own on the CPU, and torch.OutOfMemoryError on a GPU.
    """
    text = str(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    is_its_text = isinstance(error, RuntimeError | OSError | ImportError) and _NO_MEMORY.search(text) is not None
    if not (isinstance(error, MemoryError) or "OutOfMemoryError" in kinds or is_its_text):
        return None
    place = "the GPU is out of memory" if "CUDA" in text or "cuda" in text else "out of memory"
    if found := _BYTES.search(text):
        return f"{place}: could not allocate {int(found[1]) / 2**20:,.0f} MiB"
    if found := _SIZE.search(text):
        return f"{place}: could not allocate {found[1]}"
    return place
