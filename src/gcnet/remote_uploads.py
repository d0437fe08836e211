"""Verified uploads to URLs such as s3://bucket/key, and objects that only one of several writers can create."""

import errno
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gcnet.errors import printable
from gcnet.forks import without_fork
from gcnet.remote_files import RemoteError, error_code, file_system, remote_errors, retried
from gcnet.storage import StorageError, open_file

_PART = 16 * 2**20  # bytes of a part of a large upload; up to 10,000 parts
_PARTS_AT_A_TIME = 4  # which are in memory
_REFUSED = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")  # codes of a condition that failed
_OF_THIS_MACHINE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EFBIG,
    errno.EACCES,
)  # errors of the file system written to
_LARGEST_SINGLE = 2 * _PART  # s3fs uploads smaller files in one part


@dataclass(frozen=True)
class Content:
    """Size and digests of a file.

    Attributes:
        size: in bytes.
        sha256: hexadecimal.
        etag: which S3 gives to the file when it is uploaded in parts of 16 MiB.
    """

    size: int
    sha256: str
    etag: str


def content_of(path: Path) -> Content:
    """Return size and digests of the file `path`.

    Raises:
        StorageError: it cannot be read.
    """
    whole, single, parts, size = hashlib.sha256(), _md5(), [], 0
    with open_file(path) as file:
        while part := file.read(_PART):
            size += len(part)
            whole.update(part)
            single.update(part)
            parts.append(_md5(part).digest())
    multiple = f"{_md5(b''.join(parts)).hexdigest()}-{len(parts)}"
    return Content(size, whole.hexdigest(), single.hexdigest() if size < _LARGEST_SINGLE else multiple)


def _md5(data: bytes = b"") -> "hashlib._Hash":
    return hashlib.md5(data, usedforsecurity=False)


def upload(path: Path, url: str, content: Content) -> None:
    """Upload a file, and verify what is stored; failed attempts are repeated.

    The ETag is compared; where it is no MD5, as with some encryption, the stored file is read and its SHA-256 compared.

    Args:
        path: a file that does not change meanwhile.
        url: an older file there is replaced.
        content: of the file, by `content_of`.

    Raises:
        UserError: there is no such bucket, or credentials are missing or refused.
        RemoteError: all attempts failed.
    """
    options = {"chunksize": _PART, "max_concurrency": _PARTS_AT_A_TIME} if _is_s3(url) else {}

    def attempt() -> None:
        file_system(url).put_file(str(path), url, **options)
        _verify(url, content)

    retried(url, attempt)


def _verify(url: str, content: Content) -> None:
    system = file_system(url)
    stored = system.info(url)
    if stored["size"] != content.size:
        raise RemoteError(f"{url} was not stored whole: {stored['size']:,} of {content.size:,} bytes")
    if str(stored.get("ETag", "")).strip('"') == content.etag:
        return
    with system.open(url, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != content.sha256:
        raise RemoteError(f"{url} was stored with other bytes than those sent")


def upload_bytes(data: bytes, url: str) -> None:
    """Upload bytes, replacing an older file; failed attempts are repeated.

    Args:
        data: content of the file.
        url: of the file.

    Raises:
        UserError: there is no such bucket, or credentials are missing or refused.
        RemoteError: all attempts failed.
    """
    retried(url, lambda: file_system(url).pipe_file(url, data))


def create_remote(data: bytes, url: str) -> bool:
    """Create a file if there is none at the URL, which only one of several writers can; on S3 by If-None-Match.

    Args:
        data: content of the file.
        url: of the file.

    Returns:
        Whether it was created.

    Raises:
        UserError: there is no such bucket, or credentials are missing or refused.
        RemoteError: the request failed.
    """
    return _is_written(data, url, FileExistsError, mode="create")


def replace_remote(data: bytes, url: str, version: str) -> bool:
    """Replace a file unless it has changed, which only one of several writers can; on S3 by If-Match.

    Other file systems replace it without the comparison.

    Args:
        data: new content of the file.
        url: of the file.
        version: of the file that is replaced, as of `gcnet.remote_files.FileEntry`.

    Returns:
        Whether it was replaced; False if it was changed or removed meanwhile.

    Raises:
        UserError: credentials are missing or refused.
        RemoteError: the request failed.
    """
    condition = {"IfMatch": version} if _is_s3(url) else {}
    return _is_written(data, url, FileNotFoundError, **condition)


def _is_written(data: bytes, url: str, refusal: type[OSError], **condition: str) -> bool:
    """Write a file under a condition; False if it does not hold, by `refusal` or by the code of the server."""
    with remote_errors(url):
        try:
            with without_fork():
                file_system(url).pipe_file(url, data, **condition)
        except OSError as error:
            if isinstance(error, refusal) or error_code(error) in _REFUSED:
                return False
            raise
        return True


def _is_s3(url: str) -> bool:
    return url.startswith(("s3://", "s3a://"))


def remove_remote(url: str) -> None:
    """Remove the file at `url`, if there is one.

    Raises:
        UserError: credentials are missing or refused.
        RemoteError: all attempts failed.
    """
    retried(url, lambda: _remove(url))


def _remove(url: str) -> None:
    with suppress(FileNotFoundError):
        file_system(url).rm_file(url)


def download(url: str, path: Path) -> None:
    """Download the file at a URL; failed attempts are repeated.

    Args:
        url: of the file.
        path: new file, written in place.

    Raises:
        UserError: there is no such file, or credentials are missing or refused.
        RemoteError: all attempts failed.
        StorageError: the new file cannot be written, for example on a full disk.
    """

    def attempt() -> None:
        try:
            file_system(url).get_file(url, str(path))
        except OSError as error:
            if error.errno in _OF_THIS_MACHINE:
                raise StorageError(f"cannot write into {printable(path.parent)}: {error.strerror}") from error
            raise

    retried(url, attempt)
