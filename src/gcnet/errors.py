"""Usage errors: one sentence, with the nearest valid name."""

import os
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import chain
from pathlib import Path

_SIMILAR = 0.75  # below this, a suggestion misleads more often than it helps
_LISTED = 30
_LONGEST = 4000
_EXAMPLES = 6  # names shown of a list that is longer
_SHORTEST_PART = 3  # letters of a word that is looked for in longer names
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_WORDS = re.compile(r"[^a-z0-9]+")
_NO_MEMORY = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|CUDA out of memory|CUDA error: out of memory"
    r"|CU\w+_STATUS_ALLOC_FAILED|std::bad_alloc|Cannot allocate memory|MemoryError|can't start new thread"
    r"|failed to map segment from shared object"  # of a library, in an ImportError
    r"|could not create a (primitive|memory object)\b(?! desc)"  # of oneDNN, which does not name its reason
)
_BYTES = re.compile(r"you tried to allocate (\d+) bytes")
_SIZE = re.compile(r"(?:Tried|Unable) to allocate ([\d.]+ \w?i?B)")


class UserError(ValueError):
    """A usage error: one sentence with the rule, the expected and the found value.

    It names arguments in backticks, as `batch_size` or `batch_size=8`; the command line renders them as flags.

    Attributes:
        reported: whether another process of torchrun prints it, so that the command line does not; None for an error
            outside of a process group, see `first_to_report`.
        common: whether all processes of torchrun are known to raise it, so that its sentence names no rank.
    """

    reported: bool | None = None
    common = False

    def in_all_processes(self) -> "UserError":
        """Set `common`, where all processes of torchrun raise this error, such as after an exchange.

        Returns:
            The error.
        """
        self.common = True
        return self


def first_to_report(*, common: bool) -> bool:
    """Whether this process is the first of those that torchrun started on its machine to ask, and so the one to print.

    Args:
        common: whether all processes ask. Without torchrun's folder for errors, which all processes of a machine share,
            the first one by LOCAL_RANK prints then, and otherwise each of them.
    """
    rank, file = os.environ.get("LOCAL_RANK", "0"), os.environ.get("TORCHELASTIC_ERROR_FILE")
    start, folder = os.path.split(os.path.dirname(file or ""))  # a folder of each process is in that of this start
    without_folder = not common or rank == "0"
    if file is None or folder != rank:
        return without_folder
    first = os.path.join(start, "gcnet-reports")
    try:
        os.symlink(rank, first)  # names the process at once, unlike a file that is written
    except FileExistsError:
        return os.readlink(first) == rank
    except OSError:
        return without_folder
    return True


class Failure(UserError):
    """A runtime error of a correct command, such as a full disk: exit code 1 instead of 2."""


EXIT_RANK_FAILURE = 4
"""Exit code of a process that ends because another process of torchrun failed, was killed or stopped responding."""


class RankFailure(Failure):
    """Another process of torchrun failed, was killed or stopped responding: exit code 4.

    Args:
        rank: of that process; -1 if unknown.
        sentence: the rank and the cause.
    """

    def __init__(self, rank: int, sentence: str) -> None:
        super().__init__(sentence)
        self.rank = rank

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        """Return the arguments for a copy in another process."""
        return type(self), (self.rank, str(self))


class OutOfMemory(Failure):
    """The memory of the GPU or of the machine does not suffice."""


def nearest(name: str, valid: Iterable[str], synonyms: Mapping[str, str] | None = None) -> str:
    """Return a suggestion to append to a sentence: the most similar valid name, or "" if none is similar.

    Args:
        name: the unknown name.
        valid: all valid names.
        synonyms: names in other tools, in lower case, and the valid name of each.
    """
    valid = list(valid)
    synonym = (synonyms or {}).get(name.lower())
    match = synonym if synonym in valid else _closest(name, valid)
    return "" if match is None else f'; did you mean "{match}"?'


def _closest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that `name` is most likely meant for: by its beginning, its letters, or the words they share."""
    by_lower = {candidate.lower(): candidate for candidate in valid}
    lower = name.lower()
    longer = (candidate for candidate in by_lower if len(lower) >= _SHORTEST_PART and candidate.startswith(lower))
    similar = iter(get_close_matches(lower, list(by_lower), n=1, cutoff=_SIMILAR))
    swapped = (candidate for candidate in by_lower if len(lower) > 1 and sorted(candidate) == sorted(lower))
    shared = (candidate for candidate in by_lower if _share_words(lower, candidate))
    match = next(chain(longer, similar, swapped, shared), None)
    return None if match is None else by_lower[match]


def _closest_file(name: str, there: Sequence[str]) -> str | None:
    """As `_closest`; of files of the same kind, whose names end alike, only the rest of their names counts."""
    stem, suffix = os.path.splitext(name)
    of_kind = [other for other in there if suffix and other.endswith(suffix)]
    match = _closest(stem, [other.removesuffix(suffix) for other in of_kind])
    return _closest(name, [other for other in there if other not in of_kind]) if match is None else match + suffix


def _share_words(name: str, other: str) -> bool:
    """Whether `name` begins with `other`, or `other` ends with the words of `name`."""
    words, others = _WORDS.split(name), _WORDS.split(other)
    if min(len(name), len(other)) < _SHORTEST_PART:
        return False
    is_start = words[: len(others)] == others or (len(other) > _SHORTEST_PART and name.startswith(other))
    return is_start or others[-len(words) :] == words


def is_url(path: str | Path) -> bool:
    """Whether `path` is a URL, also if pathlib has reduced its slashes."""
    return _URL.match(str(path)) is not None


def nearest_path(path: str | Path) -> str:
    """Return a suggestion to append to a sentence: an existing path similar to `path`, or ""."""
    wanted = Path(path)
    existing = wanted
    while not existing.is_dir() and existing != existing.parent:
        existing = existing.parent
    for part in wanted.relative_to(existing).parts:
        names = sorted(os.listdir(existing)) if existing.is_dir() else []
        match = part if part in names else _closest_file(part, names)
        if match is None:
            return ""
        existing = existing / match
    if existing == wanted:  # a symbolic link to a missing file
        return ""
    return f'; did you mean "{printable(existing)}"?'


def no_folder(path: str | Path) -> str:
    """Return the end of a sentence on a `path` that is not a folder: it is a file, or the nearest path."""
    if Path(path).exists():
        return f"{printable(path)} is a file"
    return f"there is none at {printable(path)}{nearest_path(path)}"


def unknown(
    kind: str, name: str, valid: Iterable[str], *, listed: int = _LISTED, synonyms: Mapping[str, str] | None = None
) -> UserError:
    """Create the error for an unknown name.

    Args:
        kind: kind of name, such as "block".
        name: the unknown name.
        valid: all valid names.
        listed: largest number of valid names to list all; of more, the first few are listed if none is similar.
        synonyms: as for `nearest`.

    Returns:
        The error, with the most similar valid name.
    """
    names = list(valid)
    suggestion = nearest(name, names, synonyms)
    start = f'unknown {kind} "{name}"{suggestion or ";"}'
    if len(names) <= listed:
        return UserError(f"{start} valid: {', '.join(names) or 'none'}")
    if suggestion:
        return UserError(start)
    return UserError(f"{start} valid: {', '.join(names[: min(listed, _EXAMPLES)])}, ... ({len(names)} in total)")


def printable(name: str | Path) -> str:
    """Return `name` with control characters, line breaks and undecodable bytes escaped, safe for a terminal.

    Names of more than 4,000 characters, from damaged or hostile files, are truncated.
    """
    text = str(name)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}... ({len(text):,} letters)"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def out_of_memory(error: BaseException) -> str | None:
    """Return a description such as "out of memory: could not allocate 768 MiB" of `error`; None for other errors.

    PyTorch raises RuntimeError on the CPU, and torch.OutOfMemoryError on a GPU.
    """
    text = str(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    is_its_text = isinstance(error, RuntimeError | OSError | ImportError) and _NO_MEMORY.search(text) is not None
    if not (isinstance(error, MemoryError) or "OutOfMemoryError" in kinds or is_its_text):
        return None
    on_gpu = ("CUDA" in text or "cuda" in text) and not isinstance(error, ImportError)  # of libtorch_cuda.so
    place = "the GPU is out of memory" if on_gpu else "out of memory"
    if match := _BYTES.search(text):
        mebibytes = int(match[1]) / 2**20
        return f"{place}: could not allocate {mebibytes:,.0f} MiB" if mebibytes >= 1 else place
    if match := _SIZE.search(text):
        return f"{place}: could not allocate {match[1]}"
    return place


def raise_if_out_of_memory(error: BaseException) -> None:
    """Raise the missing memory that is among `error` and its causes, in the place of an error on something else.

    Args:
        error: of code that fails for other reasons too, such as a damaged file.

    Raises:
        Exception: the first of them that is missing memory.
    """
    cause: BaseException | None = error
    while cause is not None:
        if out_of_memory(cause) is not None:
            raise cause
        cause = cause.__cause__


@contextmanager
def explained_out_of_memory(images: int, settings: str | None = None, *, advice: str | None = None) -> Generator[None]:
    """Name the batch in errors of missing memory.

    Args:
        images: number of images in a batch.
        settings: settings that decide it (default: `batch_size`).
        advice: what needs less memory (default: a smaller `batch_size`; of a single image, a smaller one or bf16).

    Raises:
        OutOfMemory: the memory of the GPU or of the machine does not suffice.
    """
    try:
        yield
    except Exception as error:
        missing = None if isinstance(error, UserError) else out_of_memory(error)
        if missing is None:
            raise
        batches = f"batches of {images} image{'s' * (images != 1)}"
        advice = advice or ("use a smaller `batch_size`" if images > 1 else "use smaller images or `precision=bf16`")
        raise OutOfMemory(f"{missing} with {batches} ({settings or f'`batch_size={images}`'}); {advice}") from error
