"""Finds the shards (.tar) of a pattern, folder or URL, and reads byte ranges of them."""

import glob
import itertools
import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from gcnet.data.images.listing import subfolders
from gcnet.data.places import list_place
from gcnet.data.splits import split_in_name, split_of_folder
from gcnet.errors import UserError, nearest, printable
from gcnet.remote_files import FileEntry, entries_if_any, find_remote, is_remote, read_remote
from gcnet.text_files import describe_json_error

INFO = "_info.json"
"""Name of the file beside shards with their numbers of samples and class names, also read by timm."""

COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Suffixes of compressed tar files, which allow no random access."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_WILDCARDS = re.compile(r"[*?\[]")
_MOST_OPEN = 128
_MOST_NAMES = 1_000_000  # of a range such as {000000..999999}


def is_shard_name(data: str) -> bool:
    """Return whether `data` ends as the name of a shard, or of a pattern of shards."""
    return data.lower().endswith((".tar", *COMPRESSED_TAR))


def is_shards(data: str) -> bool:
    """Return whether `data` names shards: a pattern, a .tar file, or a folder of .tar files without subfolders."""
    if is_shard_name(data) and not os.path.isdir(data):
        return True
    if is_remote(data):
        listing = list_place(data)
        return _are_shards(listing.sizes, lambda: [name for name in listing.folders if not name.startswith(".")])
    return os.path.isdir(data) and _holds_shards(data)


def _holds_shards(folder: str) -> bool:
    try:
        return _are_shards(os.listdir(folder), lambda: subfolders(folder))
    except OSError:
        return False


def _are_shards(names: Collection[str], folders: Callable[[], Sequence[str]]) -> bool:
    """Whether a folder with files of these names is one of shards, and not one of class folders beside an archive."""
    return any(name.endswith(".tar") for name in names) and (INFO in names or not folders())


def find_shards(data: str) -> list[FileEntry]:
    """Find the shards of a pattern, in the order of their paths.

    Args:
        data: Path or URL with braces ({train,val}, {000000..000127}) and wildcards, or folder of shards; several
            patterns are joined by "::", as in WebDataset.

    Returns:
        Shards with their sizes and versions.

    Raises:
        UserError: No file matches, a shard of a range is missing, or the files are compressed.
    """
    is_folder = os.path.isdir(data)
    if data.lower().endswith(COMPRESSED_TAR) and not is_folder:
        raise UserError(f"shards must be .tar files without compression, found {printable(data)}: decompress them")
    found: dict[str, FileEntry] = {}
    if is_folder or not data.lower().endswith(".tar"):
        data = data.rstrip("/") or "/"
        found = {file.url: file for file in _tar_files(data)}
        data = f"{data}/*.tar"
    listed: dict[str, dict[str, FileEntry]] = {}
    for pattern in () if found else itertools.chain.from_iterable(map(expand_braces, _patterns(data))):
        if os.path.isfile(pattern):
            found[pattern] = _entry(pattern)
        elif not _WILDCARDS.search(pattern):
            folder = os.path.dirname(pattern)
            if folder not in listed:
                listed[folder] = {file.url: file for file in _tar_files(folder)}
            if pattern not in listed[folder]:
                proposal = nearest(pattern, listed[folder])
                raise UserError(f"there is no shard {printable(pattern)}{proposal}")
            found[pattern] = listed[folder][pattern]
        else:
            found |= {file.url: file for file in _glob(pattern)}
    if not found:
        raise UserError(f"no shard matches {printable(data)}")
    return [found[url] for url in sorted(found)]


def _patterns(data: str) -> Sequence[str]:
    """Return the patterns that "::" joins; it also joins the protocols of a URL of fsspec, such as zip::s3://..."""
    patterns = data.split("::")
    return patterns if not os.path.exists(data) and all(map(is_shard_name, patterns)) else [data]


def _tar_files(folder: str) -> list[FileEntry]:
    """Return the .tar files in a folder, whose characters stand for themselves; "" is the current folder."""
    if is_remote(folder):
        return [file for file in entries_if_any(folder)[0] if file.url.endswith(".tar")]
    return _glob(f"{glob.escape(folder)}/*.tar" if folder else "*.tar")


def _glob(pattern: str) -> list[FileEntry]:
    if is_remote(pattern):
        return find_remote(pattern)
    return [_entry(path) for path in sorted(glob.glob(pattern)) if os.path.isfile(path)]


def _entry(path: str) -> FileEntry:
    status = os.stat(path)
    return FileEntry(path, status.st_size, f"{status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}")


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield the names of a pattern with braces, as a shell expands them.

    Args:
        pattern: Such as "{train,val}-{000..127}.tar"; ranges keep their leading zeros.

    Raises:
        UserError: A range has over a million names.
    """
    pieces = _BRACES.split(pattern)  # text and contents of braces in turn
    choices = [[piece] if number % 2 == 0 else _alternatives(piece) for number, piece in enumerate(pieces)]
    yield from map("".join, itertools.product(*choices))


def _alternatives(content: str) -> Sequence[str]:
    match = _RANGE.fullmatch(content)
    if match is None:
        return content.split(",") if "," in content else [f"{{{content}}}"]
    first, last = int(match[1]), int(match[2])
    if last - first >= _MOST_NAMES:
        raise UserError(f"a range of shards has at most {_MOST_NAMES:,} names, found {{{content}}}")
    width = max(len(match[1]), len(match[2])) if match[1].startswith("0") or match[2].startswith("0") else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]


def split_of_shard(url: str) -> str | None:
    """Return the split in the file name of the shard `url`, or the one its folder is named after; None for neither."""
    path = PurePosixPath(url)
    return split_in_name(path.stem) or split_of_folder(path.parent.name)


def read_info(shards: Sequence[FileEntry]) -> dict[str, Any]:
    """Return the content of `INFO` beside shards; empty if there is none.

    Raises:
        UserError: The file cannot be read, or is not a JSON object.
    """
    place = f"{os.path.dirname(shards[0].url) or '.'}/{INFO}"
    try:
        text = read_bytes(place)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return {}
        raise
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{printable(place)} {describe_json_error(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{printable(place)} must be a JSON object, found {type(content).__name__}")
    return content


def read_bytes(url: str) -> bytes:
    """Return the content of the file at the path or URL `url`.

    Raises:
        UserError: It cannot be read.
    """
    if is_remote(url):
        return read_remote(url)
    try:
        with open(url, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"cannot read {printable(url)}: {error.strerror}") from error


class RangeReader:
    """Reads byte ranges of files and URLs; recently used files stay open.

    Connections are opened in the process that reads, so that data-loader workers may be forked.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, _Descriptor] = OrderedDict()

    def __reduce__(self) -> tuple[type["RangeReader"], tuple[()]]:
        return RangeReader, ()

    def read(self, url: str, start: int, size: int) -> bytes:
        """Return `size` bytes from `start`; fewer at the end of the file.

        Args:
            url: Path or URL.
            start: First byte.
            size: Number of bytes.

        Raises:
            OSError: The file cannot be read.
            UserError: The URL cannot be read.
        """
        if is_remote(url):
            return read_remote(url, start, start + size) if size else b""
        file = self._open.pop(url, None) or _Descriptor(url)
        self._open[url] = file
        if len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)
        return os.pread(file.number, size, start)


@dataclass
class _Descriptor:
    """An open file, which is closed when nothing refers to it, such as another thread."""

    number: int

    def __init__(self, path: str) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)
