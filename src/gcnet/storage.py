"""Atomic writes, locks, and checks of output paths before work starts."""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from gcnet.errors import Failure, UserError, nearest_path, printable
from gcnet.lock_owner import own_lock, read_owner

_LONGEST_OWNER = 4096  # bytes in a lock file
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # a file system without locks


class StorageError(Failure):
    """A file cannot be written, or was damaged or edited."""


class LockedError(Failure):
    """Another process holds a lock.

    Args:
        sentence: the message.
        owner: the owner as of `gcnet.lock_owner.own_lock`; empty if unknown.
    """

    def __init__(self, sentence: str, owner: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__(sentence)
        self.owner = owner


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a crash or a full disk leaves either the old file or the complete new one.

    Symbolic links stay, and their target is written. Devices and pipes, such as /dev/null, are written into.

    Args:
        path: the file.
        data: its content.

    Raises:
        StorageError: the data cannot be written; a full disk is reported with the needed and free space.
    """
    if is_stream(path):
        return _write_into(path, data)
    with atomic_file(path, len(data)) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_file(path: Path, size: int) -> Generator[BinaryIO]:
    """Open a file for writing that replaces `path` at the end; after an error or Ctrl-C nothing of it is left.

    Args:
        path: the file; of a symbolic link, the target is replaced.
        size: number of bytes that will be written, for the message of a full disk.

    Yields:
        The open file.

    Raises:
        StorageError: the file cannot be written.
    """
    path = Path(os.path.realpath(path)) if os.path.islink(path) else path
    temporary = _temporary(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        _remove(temporary)  # Before the free space is measured.
        raise _writing_failed(path, size, error, kept=path.exists()) from error
    finally:
        _remove(temporary)


def is_stream(path: Path) -> bool:
    """Whether `path` is a device, a pipe or an open file of the process, which a new file must not replace."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    is_open_file = stat.S_ISREG(mode) and path.parts[:2] in (("/", "dev"), ("/", "proc"))
    return is_open_file or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _write_into(path: Path, data: bytes) -> None:
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise StorageError(f"cannot write {printable(path)}: {error.strerror}") from error


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file; on a full disk the file stays unchanged.

    Args:
        path: the file.
        line: the line, without its end.

    Raises:
        StorageError: the line cannot be written.
    """
    data = (line + "\n").encode(errors="surrogateescape")
    try:
        with open(path, "ab", buffering=0) as file:
            length = file.tell()
            if file.write(data) != len(data):  # a full disk takes a part of the line first, and then fails
                file.truncate(length)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise _writing_failed(path, len(data), error) from error


def read_json(path: Path) -> Any:
    """Return the content of the JSON file `path`.

    Raises:
        StorageError: the file cannot be read, or is not JSON.
    """
    with open_file(path) as file:
        content = file.read()
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{printable(path)} is damaged: it is not JSON ({error})") from error


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Generator[None]:
    """Hold a lock on a file, which is created if missing and stays; the lock ends with the process.

    Processes forked meanwhile, such as data-loader workers, do not hold it. On file systems without locks nothing is
    locked.

    Args:
        path: the lock file; it names its last owner.
        wait: wait for another owner instead of raising.

    Yields:
        Nothing.

    Raises:
        LockedError: another process holds the lock (or this one, elsewhere).
        StorageError: the file cannot be created.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _writing_failed(path, 0, error) from error
    _locks.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{json.dumps(own_lock())}\n".encode(), 0)
        except BlockingIOError:
            owner = read_owner(os.pread(descriptor, _LONGEST_OWNER, 0))
            raise LockedError(f"{printable(path)} is locked by another process", owner) from None
        except OSError as error:  # the owner is only a courtesy: a full disk does not matter here
            if error.errno not in (*_NO_LOCKS, errno.ENOSPC, errno.EDQUOT):
                raise _writing_failed(path, 0, error) from error
        yield
    finally:
        _locks.discard(descriptor)
        os.close(descriptor)


_locks: set[int] = set()


def _close_locks_in_child() -> None:
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


os.register_at_fork(after_in_child=_close_locks_in_child)


def discard_standard_output() -> None:
    """Redirect a failing standard output to the null device, including what Python flushes on exit."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed, or no file
        output = sys.stdout.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, output)
        os.close(null)


def check_output_folder(path: Path) -> None:
    """Check that files can be written into the folder `path`, which need not exist; no trace is left.

    Raises:
        UserError: a file is in the way.
        StorageError: the folder cannot be created or written into.
    """
    _check_output(path, path / ".gcnet")


def check_output_file(path: Path) -> None:
    """Check that the file `path` can be written; its folders need not exist, and nothing is changed.

    Raises:
        UserError: the path is a folder, or a file is in the way.
        StorageError: the file cannot be written.
    """
    if os.path.isdir(path):
        raise UserError(f"the output must be a file, but {printable(path)} is a folder")
    if not is_stream(path):
        _check_output(path.parent, path)
    elif not os.access(path, os.W_OK):
        raise StorageError(f"cannot write {printable(path)}: {os.strerror(errno.EACCES)}")


def _check_output(folder: Path, file: Path) -> None:
    created: list[Path] = []
    trial = _temporary(file)
    if os.path.isfile(folder):
        raise UserError(f"{printable(folder)} must be a folder, but is a file")
    try:
        for missing in reversed([place for place in (folder, *folder.parents) if not place.exists()]):
            missing.mkdir()
            created.append(missing)
        trial.touch(exist_ok=False)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"cannot create the folder {printable(file.parent)}: a file has this name") from error
    except OSError as error:
        raise StorageError(f"cannot write into {printable(folder)}: {error.strerror}") from error
    finally:
        _remove(trial)
        for place in reversed(created):
            with contextlib.suppress(OSError):
                place.rmdir()


@contextlib.contextmanager
def open_file(path: Path) -> Generator[BinaryIO]:
    """Open an ordinary file for reading; reading a pipe would wait forever.

    Args:
        path: the file.

    Yields:
        The open file.

    Raises:
        StorageError: the file is missing, of another kind, or cannot be read.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a pipe, socket or device"
        raise StorageError(f"cannot read {printable(path)}: it is {kind} and not a file")
    if "\0" in str(path):
        raise StorageError(f"cannot read {printable(path)}: embedded null byte")
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        proposal = nearest_path(path) if isinstance(error, FileNotFoundError) else ""
        raise StorageError(f"cannot read {printable(path)}: {error.strerror}{proposal}") from error


def link_or_copy(source: Path, path: Path) -> None:
    """Make `path` a hard link to a file, or a copy on file systems without hard links; replaces `path` atomically.

    Args:
        source: the file; later versions must replace it, instead of being written into it.
        path: the new name, in the same or another folder.

    Raises:
        StorageError: the copy cannot be written.
    """
    temporary = _temporary(path)
    try:
        os.link(source, temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError:
        _remove(temporary)
        with open_file(source) as file, atomic_file(path, source.stat().st_size) as copy:
            shutil.copyfileobj(file, copy, 2**20)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _writing_failed(path: Path, needed: int, error: OSError, *, kept: bool = False) -> StorageError:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"cannot write {printable(path)}: {error.strerror}")
    free = shutil.disk_usage(path.parent).free
    old = "; the old file is unchanged" if kept else ""
    return StorageError(
        f"cannot write {printable(path)}: the disk is full (needed {needed:,} bytes, free {free:,}){old}"
    )


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def sync_folder(folder: Path) -> None:
    """Write the names of the files in `folder` to the disk.

    Raises:
        OSError: they cannot be written.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
