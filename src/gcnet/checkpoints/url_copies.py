"""Copies of files at URLs in the cache: each version of a file is downloaded once."""

import hashlib
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from gcnet.checkpoints.download import file_lock
from gcnet.checkpoints.published_files import cache_folder
from gcnet.errors import printable
from gcnet.remote_files import FileEntry, RemoteError, remote_file
from gcnet.remote_uploads import download
from gcnet.storage import StorageError

_ATTEMPTS = 3  # to download a file that changes meanwhile
_KEPT = 7 * 86_400  # seconds that a copy of an older version is kept


def cached_copy(url: str) -> Path:
    """Return a copy of the file at a URL in the cache, which is downloaded if there is none of its size and version.

    Of several processes that need the same file, one downloads it. Copies of older versions are removed after a week.

    Args:
        url: of the file.

    Returns:
        The copy, with the name of the file.

    Raises:
        UserError: there is no such file, or credentials are missing or refused.
        RemoteError: the download fails, or the file changes during each attempt.
        StorageError: the cache cannot be written.
    """
    entry = remote_file(url)
    folder = cache_folder() / "remote" / hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create {printable(folder)}: {error.strerror}") from error
    with file_lock(folder):
        for _ in range(_ATTEMPTS):
            path = _place(folder, entry)
            if path.is_file() and path.stat().st_size == entry.size and entry.version:
                return path
            with _downloaded(entry, path) as temporary:
                before, entry = entry, remote_file(url)
                if entry == before:
                    _check_whole(entry, temporary)
                    temporary.replace(path)
                    _remove_old(folder, path.parent)
                    return path
    raise RemoteError(f"{printable(url)} changed {_ATTEMPTS} times while it was downloaded")


def _place(folder: Path, entry: FileEntry) -> Path:
    version = hashlib.sha256(f"{entry.size} {entry.version}".encode()).hexdigest()[:16]
    return folder / version / PurePosixPath(entry.url).name


@contextmanager
def _downloaded(entry: FileEntry, path: Path) -> Generator[Path]:
    """Download a file to a temporary one beside `path`, which is removed unless it is renamed."""
    temporary = path.with_name(".part")
    try:
        path.parent.mkdir(exist_ok=True)
        if (free := shutil.disk_usage(path.parent).free) < entry.size:
            raise StorageError(
                f"cannot copy {printable(entry.url)} to {printable(path.parent)}: the disk is full (needed "
                f"{entry.size:,} bytes, free {free:,})"
            )
        download(entry.url, temporary)
        yield temporary
    except OSError as error:
        raise StorageError(f"cannot write {printable(path)}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _check_whole(entry: FileEntry, path: Path) -> None:
    if (size := path.stat().st_size) != entry.size:
        raise RemoteError(f"{printable(entry.url)} was not downloaded whole: {size:,} of {entry.size:,} bytes")


def _remove_old(folder: Path, kept: Path) -> None:
    for other in folder.iterdir():
        with suppress(OSError):
            if other != kept and time.time() - other.stat().st_mtime > _KEPT:
                shutil.rmtree(other)
