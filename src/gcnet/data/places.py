"""Folders and files of data sets on this machine or at URLs, which `pathlib.Path` holds as s3:/bucket/key."""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from gcnet.errors import is_url, printable
from gcnet.remote_files import entries_if_any, read_remote, restored_url

Place = str | os.PathLike[str]
"""A path of this machine, or a URL."""


@dataclass(frozen=True)
class RemoteListing:
    """The content of a folder at a URL.

    Attributes:
        sizes: Size in bytes of each file, by name.
        folders: Sorted names of the folders.
    """

    sizes: Mapping[str, int]
    folders: tuple[str, ...]


_kept: ContextVar[dict[str, RemoteListing] | None] = ContextVar("listings", default=None)


@contextmanager
def kept_listings() -> Generator[None]:
    """List each folder at a URL once while the context lasts: a folder of COCO takes 118 requests."""
    kept = _kept.get()
    token = _kept.set({} if kept is None else kept)
    try:
        yield
    finally:
        _kept.reset(token)


def list_place(url: Place) -> RemoteListing:
    """Return the content of the folder at the URL `url`; empty if there is none.

    Raises:
        UserError: There is no such bucket, or credentials are missing or refused.
        RemoteError: The request failed.
    """
    text = restored_url(url).rstrip("/")
    kept = _kept.get()
    if kept is None or text not in kept:
        files, folders = entries_if_any(text)
        start = f"{text}/"
        sizes = {file.url.removeprefix(start): file.size for file in files if file.url.startswith(start)}
        listing = RemoteListing(sizes, tuple(folders))
        if kept is None:
            return listing
        kept[text] = listing
    return kept[text]


def shown_place(place: Place) -> str:
    """Return the path or URL `place` for messages."""
    return printable(restored_url(place))


def is_folder(place: Place) -> bool:
    """Return whether there is a folder at a path or URL.

    Raises:
        UserError: As for `list_place`.
    """
    if not is_url(os.fspath(place)):
        return os.path.isdir(place)
    listing = list_place(place)
    return bool(listing.sizes or listing.folders)


def folders_in(folder: Path) -> list[Path]:
    """Return the sorted subfolders of a path or URL without hidden ones; empty if the folder cannot be listed.

    Raises:
        UserError: As for `list_place`.
    """
    if is_url(folder):
        return [folder / name for name in list_place(folder).folders]
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return []


def names_in(folder: Path) -> list[str]:
    """Return the sorted names in a path or URL without hidden ones; empty if the folder cannot be listed.

    Raises:
        UserError: As for `list_place`.
    """
    if is_url(folder):
        listing = list_place(folder)
        names = [*listing.sizes, *listing.folders]
    else:
        try:
            names = os.listdir(folder)
        except OSError:
            return []
    return sorted(name for name in names if not name.startswith("."))


def first_bytes(file: Path, count: int) -> bytes:
    """Return the beginning of a file.

    Args:
        file: Path or URL of the file.
        count: Maximum number of bytes.

    Raises:
        OSError: The file cannot be read.
        UserError: As for `gcnet.remote_files.remote_errors`.
    """
    if is_url(file):
        return read_remote(restored_url(file), 0, count)
    with file.open("rb") as stream:
        return stream.read(count)


def local_file(file: Path) -> Path:
    """Return a file of this machine unchanged, or the copy in the cache of a file at a URL.

    Raises:
        UserError: As for `gcnet.checkpoints.url_copies.cached_copy`.
    """
    if not is_url(file):
        return file
    from gcnet.checkpoints.url_copies import cached_copy  # imports torch

    return cached_copy(restored_url(file))
