"""Resolution of image paths in annotation files to files of a folder."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, unquote_plus, urlsplit

from gcnet.data.images.sources import size_on_disk
from gcnet.data.places import list_place
from gcnet.errors import is_url, printable
from gcnet.remote_files import is_remote, restored_url

OUTSIDE, MISSING, AMBIGUOUS = "path outside of the image folder", "no such file", "path matches several images"

_LONGEST = 4096  # characters of a path that is looked for

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class ResolvedPaths:
    """Files of the image names of an annotation file.

    Attributes:
        folder: Image folder, a path or URL.
        files: Path relative to the folder, by name.
        missing: Reason for a missing file, by name.
        sizes: Size of each file in bytes, by name; for a folder at a URL.
    """

    folder: str
    files: Mapping[str, str]
    missing: Mapping[str, str]
    sizes: Mapping[str, int] = field(default_factory=dict)

    def path(self, name: str) -> str | None:
        """Return the path of the image `name`, or None if it is missing."""
        return os.path.join(self.folder, self.files[name]) if name in self.files else None

    def size(self, name: str) -> int | None:
        """Return the size in bytes of the image `name`, or None if it is missing."""
        if is_remote(self.folder):
            return self.sizes.get(name)
        return size_on_disk(self.path(name))

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
        folder: Image folder, a path or URL.
        names: File name of each image.

    Returns:
        Files and missing names.
    """
    listing = (
        _RemoteListing(restored_url(folder).rstrip("/")) if is_url(str(folder)) else _Listing(os.path.abspath(folder))
    )
    files: dict[str, str] = {}
    missing: dict[str, str] = {}
    directly = listing.names("")
    for name in names:
        if name in directly:
            files[name] = name
            continue
        if len(name) > _LONGEST:
            missing[name] = MISSING
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
    return ResolvedPaths(listing.folder, files, missing, listing.sizes(files))


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
            self._names[parent] = self._listed(parent)
        return self._names[parent]

    def sizes(self, files: Mapping[str, str]) -> dict[str, int]:  # noqa: ARG002 (see `_RemoteListing`)
        """Return sizes in bytes that are known from listing the folders, by the keys of `files`."""
        return {}

    def _listed(self, parent: str) -> set[str]:
        try:
            return set(os.listdir(os.path.join(self.folder, parent)))
        except (OSError, ValueError):
            return set()


class _RemoteListing(_Listing):
    """Files of a folder at a URL, with their sizes."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._sizes: dict[str, Mapping[str, int]] = {}

    def sizes(self, files: Mapping[str, str]) -> dict[str, int]:
        parts = ((name, os.path.split(path)) for name, path in files.items())
        return {name: self._sizes[parent][file] for name, (parent, file) in parts if file in self._sizes[parent]}

    def _listed(self, parent: str) -> set[str]:
        parts = parent.split("/") if parent else []
        for depth, part in enumerate(parts):  # from the top: no request for a folder that is named and not there
            if part not in self.names("/".join(parts[:depth])):
                return set()
        found = list_place(f"{self.folder}/{parent}")
        self._sizes[parent] = found.sizes
        return {*found.sizes, *found.folders}


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
    if is_remote(folder):
        text, folder = text.removeprefix(f"{folder}/"), f"/{folder.partition('://')[2]}"
    path = os.path.normpath(os.path.join(folder, text))
    base = os.path.join(folder, "")
    return path[len(base) :] if path.startswith(base) else None
