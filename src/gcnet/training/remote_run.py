"""Runs at URLs such as s3://bucket/runs/first: a local folder, which is published at each checkpoint.

weights/best.safetensors, metrics.jsonl, ...    as in a local run folder
checkpoint-DIGEST.safetensors                   the checkpoint
published.json                                  marker, written last: object, size and SHA-256 of each file
.lock                                           owner, renewed every minute; exists while a process trains
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from gcnet.checkpoints.published_files import cache_folder
from gcnet.errors import UserError, printable
from gcnet.remote_files import (
    RemoteError,
    entries_if_any,
    existing_file,
    is_remote,
    read_remote,
    remote_entries,
    restored_url,
)
from gcnet.remote_uploads import content_of, download, remove_remote, upload, upload_bytes
from gcnet.storage import LockedError, StorageError, link_or_copy, locked, read_json, write_atomic
from gcnet.training.remote_lock import RemoteLock

MARKER = "published.json"
_LOCK = ".lock"
_CONFIG = "config.json"
_CHECKPOINT = "checkpoint.safetensors"
_TENSORS = ".safetensors"
_CHECKPOINT_OBJECT = re.compile(r"checkpoint-[0-9a-f]{16}\.safetensors")


def remote_url(path: str | Path) -> str | None:
    """Return the URL that `path` is, also if pathlib has reduced its slashes; None for other paths."""
    url = restored_url(path).rstrip("/")
    return url if is_remote(url) and not os.path.exists(path) else None


class RemoteRun:
    """A run at a URL, and its local folder in the cache.

    Args:
        url: of the run.

    Attributes:
        path: the local folder, which stays after the run.
        take_over: whether `writing` replaces a lock that its process has not renewed for ten minutes.
        failure: the error of the last publication, or None.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        name = re.sub(r"[^\w.-]+", "-", self.url.partition("://")[2])[-80:]
        self.path = cache_folder() / "runs" / f"{name}-{_digest(self.url)}"
        self.take_over = False
        self.failure: RemoteError | None = None
        self._lock = RemoteLock(self._url(_LOCK), self.url)
        self._seen: dict[str, Any] | None = None
        self._files: dict[str, dict[str, Any]] = {}
        self._uploaded: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {}

    def check_free(self) -> None:
        """Check that there is nothing at the URL, except for what a run left before its first publication.

        Raises:
            UserError: there is something, or the URL cannot be accessed.
        """
        if self._marker() is not None:
            raise UserError(
                f"{printable(self.url)} already contains a run, and runs are never overwritten; "
                f"resume it with `gcnet.resume({printable(self.url)})`, or choose another `output`"
            )
        files, folders = entries_if_any(self.url)
        names = [*(file.url.rpartition("/")[2] for file in files), *folders]
        if names and not {_CONFIG, _LOCK} & set(names):  # config.json is uploaded first
            raise UserError(
                f"`output` must not exist yet, found {printable(names[0])} at {printable(self.url)}; take another URL"
            )

    def check_no_folder(self) -> None:
        """Check that there is no local folder.

        Raises:
            UserError: there is one, of a run that has not been published.
        """
        if self.path.exists():
            raise UserError(
                f"{printable(self.url)} has a run on this machine that is not published, in {printable(self.path)}; "
                f"resume it with `gcnet.resume({printable(self.url)})`, or choose another `output`"
            )

    def published_config(self) -> Any:
        """Return the content of config.json at the URL; None if there is no run, or the file is damaged.

        Raises:
            UserError: the URL cannot be accessed.
        """
        if self._marker() is None:
            return None
        content = read_remote(self._url(_CONFIG))
        with suppress(ValueError):
            return json.loads(content)
        return None

    @contextmanager
    def writing(self) -> Generator[None]:
        """Hold the lock of the run, so that only one process trains in it, on any machine.

        Call it with the local folder locked.

        Raises:
            UserError: another process holds it, or has published the run since `check_free` or `fetch`.
        """
        published = None if self._seen is None else str(self._seen.get("time"))
        with self._lock.held(published, take_over=self.take_over):
            if self._marker() != self._seen:
                raise UserError(
                    f"another process has published {printable(self.url)} in the meantime: repeat the command"
                )
            yield

    def publish(self) -> None:
        """Upload the files that changed, verified, and then the marker.

        Raises:
            RemoteError: the network or the file system fails; the last publication and the local folder are intact.
            LockedError: another process has taken the lock.
        """
        self.failure = None
        try:
            self._publish()
        except LockedError:
            raise
        except (UserError, OSError) as error:
            self.failure = RemoteError(
                f"the run was not published: {error}; nothing is lost: the run is in {printable(self.path)}, and "
                f"`gcnet.resume({printable(self.url)})` continues it on this machine"
            )
            raise self.failure from error

    def _publish(self) -> None:
        self._lock.check_held()
        names = [path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file()]
        shown = [str(name) for name in names if not any(part.startswith(".") for part in name.parts)]
        ordered = sorted(shown, key=lambda name: (name == _CHECKPOINT, name != _CONFIG, name))
        files = {name: self._upload(name) for name in ordered}
        marker = {"format_version": 1, "time": datetime.now(UTC).isoformat(timespec="seconds"), "files": files}
        self._lock.check_held()  # the files took a while
        upload_bytes(json.dumps(marker, indent=2).encode(), self._url(MARKER))
        self._files = files
        self._note(marker)
        current = files.get(_CHECKPOINT, {}).get("object")
        for stored in remote_entries(self.url)[0]:
            name = stored.url.rpartition("/")[2]
            if _CHECKPOINT_OBJECT.fullmatch(name) and name != current:
                remove_remote(self._url(name))

    def _upload(self, name: str) -> dict[str, Any]:
        """Upload a file unless it is there already; returns its entry in the marker."""
        path = self.path / name
        status = path.stat()
        state = (status.st_ino, status.st_size, status.st_mtime_ns)
        if name in self._uploaded and self._uploaded[name][0] == state:
            return self._uploaded[name][1]
        steady = self.path / f".{secrets.token_hex(4)}.tmp"
        try:
            if path.suffix == _TENSORS:  # replaced as a whole, so that the link keeps its content
                link_or_copy(path, steady)
            else:
                write_atomic(steady, path.read_bytes())
            content = content_of(steady)
            entry = {"object": name, "size": content.size, "sha256": content.sha256}
            if name == _CHECKPOINT:
                entry["object"] = f"checkpoint-{content.sha256[:16]}{_TENSORS}"
            if self._files.get(name) != entry:
                upload(steady, self._url(str(entry["object"])), content)
        finally:
            steady.unlink(missing_ok=True)
        self._uploaded[name] = state, entry
        return entry

    def fetch(self) -> None:
        """Bring the local folder up to date; it is used unchanged if it has later steps, or was never published.

        Raises:
            UserError: there is no run at the URL, or a process on this machine trains in it.
            RemoteError: a file cannot be downloaded.
            StorageError: a downloaded file is damaged, or cannot be written.
        """
        marker = self._marker()
        if marker is None:
            if (self.path / _CONFIG).exists():
                return
            raise UserError(f"there is no run at {printable(self.url)}: it has no {MARKER}")
        self._seen = marker
        _make_folder(self.path)
        with locked(self.path.with_name(f"{self.path.name}.lock"), wait=True):
            self._files = marker["files"]
            if self._noted() == marker:
                return
            try:
                with locked(self.path / _LOCK):
                    for name, entry in self._files.items():
                        self._download(name, entry)
                    self._note(marker)
            except LockedError as error:
                raise UserError(f"{printable(self.url)} is in use: a process on this machine trains in it") from error

    def _download(self, name: str, entry: dict[str, Any]) -> None:
        path = self.path / name
        if path.is_file() and content_of(path).sha256 == entry["sha256"]:
            return
        _make_folder(path.parent)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            download(self._url(str(entry["object"])), temporary)
            # Of a publication that was interrupted, other files may be newer than the marker.
            if name == _CHECKPOINT and content_of(temporary).sha256 != entry["sha256"]:
                raise StorageError(f"{printable(self._url(str(entry['object'])))} is damaged: its SHA-256 differs")
            os.replace(temporary, path)
        except OSError as error:
            raise StorageError(f"cannot write {printable(path)}: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)

    def _marker(self) -> dict[str, Any] | None:
        url = self._url(MARKER)
        if existing_file(url) is None:
            return None
        try:
            marker = json.loads(read_remote(url))
            _check_marker(marker)
        except UserError:
            raise
        except (ValueError, RecursionError) as error:
            raise StorageError(f"{printable(url)} is damaged: {printable(str(error))}") from error
        return marker

    def _note(self, marker: dict[str, Any]) -> None:
        write_atomic(self.path / f".{MARKER}", json.dumps(marker).encode())

    def _noted(self) -> Any:
        with suppress(StorageError):
            return read_json(self.path / f".{MARKER}")
        return None

    def _url(self, name: str) -> str:
        return f"{self.url}/{name}"


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create {printable(path)}: {error.strerror}") from error


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest()[:8]


def _check_marker(marker: Any) -> None:
    """Check that a marker names files of the run, with the entries of `RemoteRun._upload`.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(marker, dict) or not isinstance(marker.get("files"), dict):
        raise ValueError("it has no files")
    for name, entry in marker["files"].items():
        kinds = {"object": str, "sha256": str, "size": int}
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), kind) for key, kind in kinds.items()):
            raise ValueError(f"the entry of {name} lacks its object, size or SHA-256")
        for path in map(PurePosixPath, (name, entry["object"])):
            if path.is_absolute() or not path.parts or any(part.startswith(".") for part in path.parts):
                raise ValueError("it names files outside of the run")


def remote_run(path: str | Path | None) -> RemoteRun | None:
    """Return the run at a URL.

    Args:
        path: URL, also if pathlib has reduced its slashes, or the local folder of a run at a URL.

    Returns:
        The run; None for other paths.
    """
    if path is None:
        return None
    url = remote_url(path)
    if url is None:
        with suppress(StorageError, LookupError, TypeError):
            output = read_json(Path(path) / "config.json")["settings"]["output"]["output"]
            url = remote_url(output) if isinstance(output, str) else None
        if url is None or RemoteRun(url).path.resolve() != Path(path).resolve():
            return None
    return RemoteRun(url)
