"""Downloads published checkpoints: atomically, with size and hash checked."""

import hashlib
import http.client
import os
import shutil
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from gcnet.checkpoints.published_files import PublishedFile, cached_path
from gcnet.errors import Failure, UserError, printable
from gcnet.progress_bar import progress_bar
from gcnet.storage import StorageError, atomic_file, locked

_SECONDS = 20.0  # without an answer
_TRIAL_SECONDS = 0.8  # of a connection
_PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_CHUNK = 2**20  # bytes
LARGEST_FILE = 4 * 2**30  # bytes; the largest published file has less than 1 GB


def connection_failure(host: str, port: int = 443) -> OSError | None:
    """Return why a server cannot be reached, within a second, where other libraries retry for most of a minute.

    Args:
        host: name of the server.
        port: of the server.

    Returns:
        The error; None for a server that can be reached, and behind a proxy, where only a request shows it.
    """
    if any(os.environ.get(proxy) for proxy in _PROXIES) and host not in ("127.0.0.1", "localhost"):
        return None
    answers: list[OSError | None] = []
    # In a thread, since name resolution has no timeout.
    trial = threading.Thread(target=_try_connection, args=(host, port, answers), daemon=True)
    trial.start()
    trial.join(_TRIAL_SECONDS)
    return answers[0] if answers else OSError("no answer")


def _try_connection(host: str, port: int, answers: list[OSError | None]) -> None:
    try:
        socket.create_connection((host, port), timeout=_TRIAL_SECONDS).close()
        answers.append(None)
    except OSError as error:
        answers.append(error)


def checkpoint_file(file: PublishedFile, *, download: bool) -> Path:
    """Return the path of a published checkpoint in the cache, downloading it if it is missing.

    Args:
        file: the checkpoint.
        download: whether the network may be used.

    Raises:
        UserError: the file is missing, and `download` is false.
        Failure: the server does not answer, or gives another file than the published one.
        StorageError: the cache cannot be written.
    """
    path = cached_path(file)
    if path.is_file():
        return path
    if not download:
        raise UserError(
            f"{file.name} is not in the cache: add `download` to download it, or save {file.url} as {printable(path)}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create {printable(path.parent)}: {error.strerror}") from error
    with file_lock(path):
        if not path.is_file():
            _download(file, path)
    return path


def file_lock(path: Path) -> AbstractContextManager[None]:
    """Return a lock on the file `path` of the cache, with which processes that need it wait for the first one."""
    return locked(path.with_name(f".{path.name}.lock"), wait=True)


def check_digest(file: PublishedFile, path: Path) -> None:
    """Check that a file in the cache has the published hash.

    Args:
        file: the published checkpoint.
        path: the file in the cache.

    Raises:
        Failure: another file, or a damaged one.
    """
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if not digest.startswith(file.digest):
        raise Failure(
            f"{printable(path)} is not {file.name}: its SHA-256 begins with {digest[:8]}, expected {file.digest}; "
            "remove it, or take another copy"
        )


def _download(file: PublishedFile, path: Path) -> None:
    request = urllib.request.Request(file.url, headers={"User-Agent": "gcnet"})
    try:
        response = urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        raise Failure(
            f"cannot download {file.name}: the server answers {error.code} ({error.reason}) for {file.url}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(file, path, error) from error
    with response:
        size = _declared_size(file, path, response)
        digest = hashlib.sha256()
        with atomic_file(path, size or 0) as target:
            for chunk in _chunks(file, path, response, size):
                digest.update(chunk)
                target.write(chunk)
            if not digest.hexdigest().startswith(file.digest):
                raise Failure(
                    f"the server has another file than {file.name} at {file.url}: its SHA-256 begins with "
                    f"{digest.hexdigest()[:8]}, expected {file.digest}"
                )


def _unreachable(file: PublishedFile, path: Path, error: Exception) -> Failure:
    reason = getattr(error, "reason", None) or error
    return Failure(
        f"cannot download {file.name}: {urlparse(file.url).hostname} cannot be reached ({printable(str(reason))}); get "
        f"{file.url} on another machine and put it at {printable(path)}"
    )


def _declared_size(file: PublishedFile, path: Path, response: Any) -> int | None:
    """The size in bytes that the server declares, None if it declares none; refuse one that cannot be stored."""
    text = response.headers.get("Content-Length") or ""
    size = int(text) if text.isdigit() else None
    if size is not None and size > LARGEST_FILE:
        raise Failure(f"cannot download {file.name}: the server declares {size:,} bytes, the limit is {LARGEST_FILE:,}")
    free = shutil.disk_usage(path.parent).free
    if size is not None and size > free:
        raise StorageError(
            f"cannot download {file.name} to {printable(path.parent)}: it has {size:,} bytes, but {free:,} are free"
        )
    return size


def _chunks(file: PublishedFile, path: Path, response: Any, size: int | None) -> Generator[bytes]:
    """The content of a file, with a progress bar; its length is checked."""
    done = 0
    with progress_bar(f"{file.name} (MB)", (size or file.smallest_size) // _CHUNK) as advance:
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _unreachable(file, path, error) from error
            if not chunk:
                break
            done += len(chunk)
            if done > LARGEST_FILE:
                raise Failure(f"cannot download {file.name}: the server sends more than {LARGEST_FILE:,} bytes")
            yield chunk
            advance(1)
    if size is not None and done < size:
        raise Failure(f"the download of {file.name} ended after {done:,} of {size:,} bytes: try again")
