"""Resolution of image paths in annotation files to files of a folder."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, unquote_plus, urlsplit

from gcnet.errors import printable

OUTSIDE, MISSING, AMBIGUOUS = "path outside of the image folder", "no such file", "path matches several images"

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class ResolvedPaths:
    """Files of the image names of an annotation file.

    Attributes:
        folder: Image folder.
        files: Path relative to the folder, by name.
        missing: Reason for a missing file, by name.
    """

    folder: str
    files: Mapping[str, str]
    missing: Mapping[str, str]

    def path(self, name: str) -> str | None:
        """Return the path of the image `name`, or None if it is missing."""
        return os.path.join(self.folder, self.files[name]) if name in self.files else None

    def repaired(self) -> dict[str, str]:
        """Return the repaired paths by name."""
        return {name: path for name, path in self.files.items() if path != name and _inside(name, self.folder) != path}

    def note(self) -> str | None:
        """Return a sentence with the number of repaired paths, or None if there are none."""
        repaired = self.repaired()
        if not repaired:
            return None
        name, path = next(iter(repaired.items()))
        were = "path was" if len(repaired) == 1 else "paths were"
        return printable(f'{len(repaired):,} image {were} repaired, such as "{name}" to "{path}"')


def resolve_paths(folder: str | os.PathLike[str], names: Iterable[str]) -> ResolvedPaths:
    """Find the files of image names, also of names written on other systems and machines.

    Existing files are taken as written. Otherwise backslashes, URL encoding, leading folders, URLs and letter case are
    repaired if this gives a file that no other name has. Only symbolic links may lead out of the folder.

    Args:
        folder: Image folder.
        names: File name of each image.

    Returns:
        Files and missing names.
    """
    listing = _Listing(os.path.abspath(folder))
    files: dict[str, str] = {}
    missing: dict[str, str] = {}
    directly = listing.names("")
    for name in names:
        if name in directly:
            files[name] = name
            continue
        path = next((path for guess in _guesses(name, listing.folder) if (path := listing.find(guess))), None)
        if path is not None:
            files[name] = path
        else:
            missing[name] = MISSING if _inside(name, listing.folder) else OUTSIDE
    owners = Counter(files.values())
    for name in ResolvedPaths(listing.folder, files, missing).repaired():
        if owners[files[name]] > 1:
            missing[name] = AMBIGUOUS
            del files[name]
    return ResolvedPaths(listing.folder, files, missing)


class _Listing:
    """Files of a folder; every subfolder is listed at most once."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._names: dict[str, set[str]] = {}
        self._folded: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str | None:
        """Return the path of a file in its own spelling, or None if there is none, or several."""
        parent, name = os.path.split(path)
        names = self.names(parent)
        if name in names:
            return path
        if parent not in self._folded:
            self._folded[parent] = {}
            for other in names:
                self._folded[parent].setdefault(_fold(other), []).append(other)
        same = self._folded[parent].get(_fold(name), [])
        return os.path.join(parent, same[0]) if len(same) == 1 else None

    def names(self, parent: str) -> set[str]:
        """Return the names in a subfolder; empty if it cannot be listed."""
        if parent not in self._names:
            try:
                self._names[parent] = set(os.listdir(os.path.join(self.folder, parent)))
            except (OSError, ValueError):
                self._names[parent] = set()
        return self._names[parent]


def _fold(name: str) -> str:
    """Return a name in lower case and composed Unicode form."""
    return unicodedata.normalize("NFC", name).casefold()


def _guesses(name: str, folder: str) -> Iterator[str]:
    """Yield relative paths that a name may stand for, most literal first, all inside the folder."""
    readings = list(dict.fromkeys(_readings(name)))
    for text in readings:
        if relative := _inside(text, folder):
            yield relative
    for text in readings:
        parts = [part for part in text.split("/") if part not in ("", ".", "..")]
        for start in range(1, len(parts)):
            yield "/".join(parts[start:])
        if text.startswith(("/", "..")) and parts:
            yield "/".join(parts)


def _readings(name: str) -> Iterator[str]:
    """Yield the name and possible decodings of it."""
    yield name
    slashed = _DRIVE.sub("/", name, count=1).replace("\\", "/")
    yield slashed
    yield unquote(slashed)
    yield unquote_plus(slashed.strip())
    if "?" in slashed or _URL.match(slashed):
        try:
            url = urlsplit(slashed)
        except ValueError:  # such as an unclosed bracket in the host's place
            return
        for value in parse_qs(url.query).get("d", []):  # Label Studio: /data/local-files/?d=folder/image.png
            yield value.replace("\\", "/")
        yield unquote(url.path)


def _inside(text: str, folder: str) -> str | None:
    """Return a path relative to the folder, or None if it leads out of the folder."""
    if "\0" in text:
        return None
    path = os.path.normpath(os.path.join(folder, text))
    base = os.path.join(folder, "")
    return path[len(base) :] if path.startswith(base) else None
