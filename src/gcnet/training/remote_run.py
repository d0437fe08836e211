"""Runs at URLs such as s3://bucket/runs/first: a local folder, which is published at each checkpoint.

weights/best.safetensors, metrics.jsonl, ...    as in a local run folder
checkpoint-DIGEST.safetensors                   the checkpoint
published.json                                  marker, written last: object, size and SHA-256 of each file
.lock                                           owner; exists while a process trains
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
from gcnet.lock_owner import ago, describe_owner, own_lock, read_owner
from gcnet.remote_files import RemoteError, find_remote, is_remote, read_remote, restored_url
from gcnet.remote_uploads import content_of, create_remote, download, remove_remote, upload, upload_bytes
from gcnet.storage import LockedError, StorageError, link_or_copy, locked, read_json, write_atomic

MARKER = "published.json"
_LOCK = ".lock"
_CHECKPOINT = "checkpoint.safetensors"
_TENSORS = ".safetensors"


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
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        name = re.sub(r"[^\w.-]+", "-", self.url.partition("://")[2])[-80:]
        self.path = cache_folder() / "runs" / f"{name}-{hashlib.sha256(self.url.encode()).hexdigest()[:8]}"
        self._owner = own_lock() | {"token": secrets.token_hex(8)}
        self._files: dict[str, dict[str, Any]] = {}
        self._uploaded: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {}

    def check_free(self) -> None:
        """Check that there is no run at the URL.

        Raises:
            UserError: there is one, or the URL cannot be accessed.
        """
        if self._marker() is not None:
            raise UserError(
                f"{printable(self.url)} already contains a run, and runs are never overwritten; "
                f"resume it with `gcnet.resume({printable(self.url)})`, or choose another `output`"
            )

    def published_config(self) -> Any:
        """Return the content of config.json at the URL; None if there is no run, or the file is damaged.

        Raises:
            UserError: the URL cannot be accessed.
        """
        if self._marker() is None:
            return None
        content = read_remote(self._url("config.json"))
        with suppress(ValueError):
            return json.loads(content)
        return None

    @contextmanager
    def writing(self) -> Generator[None]:
        """Hold the lock of the run, so that only one process trains in it, on any machine.

        A lock of a process on this machine that has ended is taken over. Call it with the local folder locked.

        Raises:
            UserError: another process holds it.
        """
        owner = json.dumps(self._owner).encode()
        if not create_remote(owner, self._url(_LOCK)):
            other = self._lock_owner()
            if other.get("host") != self._owner["host"] or _is_other_process(other.get("process")):
                raise self._in_use(other)
            upload_bytes(owner, self._url(_LOCK))
        try:
            yield
        finally:
            with suppress(UserError):  # the lock stays; its message names this process
                if self._lock_owner() == self._owner:
                    remove_remote(self._url(_LOCK))

    def _in_use(self, owner: dict[str, Any]) -> UserError:
        marker = self._marker()
        published = "" if marker is None else f"; last published {ago(marker.get('time'))}"
        return UserError(
            f"{printable(self.url)} is in use by {describe_owner(owner)}{published}; wait until it ends, or stop it; "
            f"if it was killed, delete {printable(self._url(_LOCK))}"
        )

    def publish(self) -> None:
        """Upload the files that changed, verified, and then the marker.

        Raises:
            RemoteError: the network or the file system fails; the last publication and the local folder are intact.
            LockedError: another process has taken the lock.
        """
        try:
            self._publish()
        except LockedError:
            raise
        except (UserError, OSError) as error:
            raise RemoteError(
                f"the run was not published: {error}; nothing is lost: the run is in {printable(self.path)}, and "
                f"`gcnet.resume({printable(self.url)})` continues it on this machine"
            ) from error

    def _publish(self) -> None:
        if self._lock_owner() != self._owner:
            raise LockedError(f"the lock of {printable(self.url)} was deleted or taken by another process")
        names = [path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file()]
        shown = [str(name) for name in names if not any(part.startswith(".") for part in name.parts)]
        files = {name: self._upload(name) for name in sorted(shown, key=lambda name: (name == _CHECKPOINT, name))}
        marker = {"format_version": 1, "time": datetime.now(UTC).isoformat(timespec="seconds"), "files": files}
        upload_bytes(json.dumps(marker, indent=2).encode(), self._url(MARKER))
        self._files = files
        self._note(marker)
        current = files.get(_CHECKPOINT, {}).get("object")
        for stored in find_remote(self._url("checkpoint-*.safetensors")):
            if stored.url.rpartition("/")[2] != current:
                remove_remote(stored.url)

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
            if (self.path / "config.json").exists():
                return
            raise UserError(f"there is no run at {printable(self.url)}: it has no {MARKER}")
        (self.path / "weights").mkdir(parents=True, exist_ok=True)
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
        path.parent.mkdir(parents=True, exist_ok=True)
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
        if not find_remote(url):
            return None
        try:
            marker = json.loads(read_remote(url))
            files = marker["files"]
            names = [PurePosixPath(name) for name in [*files, *(entry["object"] for entry in files.values())]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(f"{printable(url)} is damaged: {error}") from error
        if any(name.is_absolute() or ".." in name.parts for name in names):
            raise StorageError(f"{printable(url)} is damaged: it names files outside of the run")
        return marker

    def _lock_owner(self) -> dict[str, Any]:
        """The content of the lock; empty where it is missing or damaged."""
        if not find_remote(self._url(_LOCK)):
            return {}
        return read_owner(read_remote(self._url(_LOCK)))

    def _note(self, marker: dict[str, Any]) -> None:
        write_atomic(self.path / f".{MARKER}", json.dumps(marker).encode())

    def _noted(self) -> Any:
        with suppress(StorageError):
            return read_json(self.path / f".{MARKER}")
        return None

    def _url(self, name: str) -> str:
        return f"{self.url}/{name}"


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


def _is_other_process(process: object) -> bool:
    """Whether it is the number of a running process, other than this one, which left its lock without a network."""
    try:
        os.kill(int(str(process)), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return process != os.getpid()
