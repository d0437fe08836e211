"""Files at URLs such as s3://bucket/key, by fsspec; the file system is opened once in each process."""

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from gcnet.errors import Failure, UserError, is_url, nearest, printable
from gcnet.forks import without_fork

_T = TypeVar("_T")

# A key and a secret before "@": no port, no ARN of an access point, and no container of Azure.
_SECRET = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{1,2}(?!arn:)[^/@:]+:(?!\d+/)[^@]+@")
_SHORT_URL = re.compile(r"^([^/:]+):/(?!/)")
_ATTEMPTS = 6  # of requests that fail at once: 15 s of pauses, and those of botocore
_OF_BOTOCORE = 3  # attempts within each
_LONGEST_ATTEMPT = 15.0  # seconds for the answer to an attempt, as s3fs sets for those without a body
_LEAST_SPEED = 100_000.0  # bytes of a body per second
_FIRST_PAUSE = 0.5  # seconds; doubled after every failed attempt
_PERMANENT = (FileNotFoundError, PermissionError, FileExistsError, NotImplementedError, ValueError, TypeError)
_VERSIONS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created")
_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound")


class RemoteError(Failure):
    """A remote file cannot be read or written, although the request is correct."""


class _AnswerTimeout(Exception):
    """A server did not answer; no TimeoutError, whose text fsspec drops."""


@dataclass(frozen=True)
class FileEntry:
    """A file at a URL or path.

    Attributes:
        url: Its URL or path.
        size: Size in bytes.
        version: ETag or modification time, which changes with the content; empty if the file system has neither.
    """

    url: str
    size: int
    version: str


def is_remote(path: object) -> bool:
    """Return whether `path` is a URL with a protocol, such as s3://bucket/key."""
    protocol, separator, _ = str(path).partition("://")
    return bool(separator) and protocol.replace("+", "").replace("-", "").replace(".", "").isalnum()


def check_without_secret(url: str | os.PathLike[str], name: str = "URLs") -> None:
    """Check that a URL has no password or secret key, which would be printed and recorded with it.

    Args:
        url: The URL or path.
        name: Name of the argument, for messages.

    Raises:
        UserError: It has one.
    """
    if _SECRET.match(str(url)):
        raise UserError(
            f"{name} must not contain a password or secret key, as in KEY:SECRET@; credentials come from the "
            "environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )


def restored_url(path: str | os.PathLike[str]) -> str:
    """Return `path` as text; a URL that pathlib has changed to s3:/bucket gets its second slash back."""
    text = str(path)
    return _SHORT_URL.sub(lambda match: _slashes(match[1]), text) if is_url(text) else text


def _slashes(protocol: str) -> str:
    return f"{protocol}:///" if protocol == "file" else f"{protocol}://"


def file_system(url: str) -> Any:
    """Return the fsspec file system of `url`; a forked process gets one of its own.

    Options, such as AWS_ENDPOINT_URL and credentials, come from the environment and configuration files.

    Raises:
        UserError: fsspec or the library of the protocol is not installed, the protocol is unknown or "file", or the URL
            has a password.
    """
    check_without_secret(url)
    protocol, _, path = url.rstrip("/").partition(":")
    if protocol in ("s3", "s3a") and not path.strip("/"):
        raise UserError(f"{printable(url)} names no bucket, as s3://bucket/folder does")
    if protocol in ("file", "local"):
        raise UserError(f"a path on this machine is given without {protocol}://, found {printable(url)}")
    return _file_system(protocol, os.getpid())


@cache
def _file_system(protocol: str, process: int) -> Any:  # noqa: ARG001 (part of the key of the cache)
    try:
        import fsspec
    except ImportError as error:
        raise _missing_library(protocol) from error
    try:
        system = fsspec.filesystem(protocol, use_listings_cache=False)
    except ImportError as error:
        raise _missing_library(protocol, str(error)) from error
    except ValueError as error:
        proposal = nearest(protocol, fsspec.available_protocols())
        raise UserError(f'unknown protocol "{printable(protocol)}://"{proposal or "; such as s3://"}') from error
    if protocol in ("s3", "s3a"):
        system.retries = 1  # botocore repeats requests as well: together they would wait hours for a server that hangs
        if "AWS_MAX_ATTEMPTS" not in os.environ:
            system.config_kwargs = {"retries": {"total_max_attempts": _OF_BOTOCORE}} | system.config_kwargs
        system._call_s3 = _limited(system._call_s3)
    return system


def _limited(request: Callable[..., Awaitable[_T]]) -> Callable[..., Awaitable[_T]]:
    """Limit the time of requests with a body: aiohttp would wait forever for a server that does not take the body.

    A server that has not answered gets the time of one attempt only, until it answers.
    """
    answers = True

    async def limited(method: str, *arguments: Any, **named: Any) -> _T:
        nonlocal answers
        body = named.get("Body")
        limit = None if body is None and answers else _LONGEST_ATTEMPT * (2 if answers else 1)
        if limit is not None and body is not None:
            limit += len(body) / _LEAST_SPEED
        try:
            result = await asyncio.wait_for(request(method, *arguments, **named), limit)
        except TimeoutError as error:
            answers = False
            raise _AnswerTimeout(f"the server did not answer within {limit:.0f} s") from error
        except Exception as error:
            answers = not _is_timeout(error)
            raise
        answers = True
        return result

    return limited


def _missing_library(protocol: str, reason: str = "") -> UserError:
    if protocol in ("s3", "s3a") or not reason:
        return UserError(f'URLs such as {protocol}://... require fsspec and s3fs: pip install "gcnet[cloud]"')
    return UserError(f"{protocol}:// requires another library: {printable(reason)}")


@contextmanager
def remote_errors(url: str) -> Generator[None]:
    """Turn errors of fsspec into one sentence that names `url`.

    Raises:
        UserError: There is no such file or bucket, or credentials are missing or refused.
        RemoteError: The request failed for another reason, such as the network.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"nothing at {printable(url)}: {_first_line(error)}") from error
    except PermissionError as error:
        raise UserError(f"access to {printable(url)} is denied: {_first_line(error)}") from error
    except Exception as error:  # libraries of protocols have error classes of their own
        if type(error).__name__ in _CREDENTIALS:
            variables = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            raise UserError(f"no credentials for {printable(url)} ({_first_line(error)}): set {variables}") from error
        raise RemoteError(f"cannot access {printable(url)}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    first, *others = (text or str(error) or type(error).__name__).splitlines()
    return printable(" ".join([first, *others[:1]] if first.endswith(":") else [first])[:200])


def read_remote(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """Return the bytes of a file, or of a range of it; failed requests are repeated.

    Args:
        url: URL of the file.
        start: First byte of the range (default: that of the file).
        end: Byte after the last (default: the end of the file).

    Raises:
        UserError: As for `remote_errors`.
        RemoteError: All attempts failed.
    """

    def request() -> bytes:
        try:
            return file_system(url).cat_file(url, start=start, end=end)
        except OSError as error:
            if start is not None and error_code(error) in ("InvalidRange", "416"):  # the file is not as long
                return b""
            raise

    return retried(url, request)


def error_code(error: BaseException) -> str:
    """Return the code in the answer of an S3 server that an error was made of, such as "NoSuchKey", or ""."""
    response = getattr(error.__cause__, "response", None)
    details = response.get("Error") if isinstance(response, dict) else None
    return str(details.get("Code")) if isinstance(details, dict) else ""


def retried(url: str, request: Callable[[], _T]) -> _T:
    """Return the result of a request, which is repeated if it fails for another reason than a missing file or access.

    Args:
        url: URL of the request, for errors.
        request: The request.

    Raises:
        UserError: As for `remote_errors`.
        RemoteError: All attempts failed.
    """
    with remote_errors(url):
        for attempt in range(_ATTEMPTS):
            try:
                with without_fork():
                    return request()
            except Exception as error:
                if attempt == _ATTEMPTS - 1 or _is_permanent(error):
                    raise
                time.sleep(_FIRST_PAUSE * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


def _is_permanent(error: Exception) -> bool:
    """Whether a request that failed is not repeated: mistakes, and servers that did not answer in time."""
    if isinstance(error, RemoteError):
        return False
    name = type(error).__name__
    return isinstance(error, _PERMANENT) or name in (*_CREDENTIALS, "ParamValidationError") or _is_timeout(error)


def _is_timeout(error: BaseException) -> bool:
    """Whether a server did not answer in time, in repeated requests: libraries of protocols repeat them."""
    return "Timeout" in type(error).__name__


def read_ranges(ranges: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
    """Read ranges of files of the same protocol by requests at the same time.

    Args:
        ranges: URL, first byte, and byte after the last of each range.

    Returns:
        Content of each range; None if its request failed, which `read_remote` may repeat or explain.

    Raises:
        RemoteError: The server does not answer: each of the ranges would be waited for again.
    """
    if not ranges:
        return []
    urls, starts, ends = (list(values) for values in zip(*ranges, strict=True))
    system = file_system(ranges[0][0])
    try:
        with without_fork():
            results = system.cat_ranges(urls, starts, ends, on_error="return")
    except Exception:  # libraries of protocols have error classes of their own
        return [None] * len(ranges)
    for url, result in zip(urls, results, strict=True):
        if isinstance(result, Exception) and _is_timeout(result):
            with remote_errors(url):
                raise result
    return [result if isinstance(result, bytes) else None for result in results]


def find_remote(pattern: str) -> list[FileEntry]:
    """Return the files of a URL or of a pattern with wildcards (*, ?, [...], **), sorted by URL.

    Raises:
        UserError: As for `remote_errors`; a pattern without files gives an empty list.
        RemoteError: All attempts failed.
    """
    protocol = pattern.partition("://")[0]
    entries = retried(pattern, lambda: file_system(pattern).glob(pattern, detail=True)).values()
    files = [entry for entry in entries if entry["type"] == "file"]
    return sorted((_file_entry(protocol, entry) for entry in files), key=lambda file: file.url)


def list_remote(folder: str) -> list[FileEntry]:
    """Return all files below the URL of a folder, sorted by URL.

    Raises:
        UserError: As for `remote_errors`.
        RemoteError: The request failed.
    """
    protocol = folder.partition("://")[0]
    found = retried(folder, lambda: file_system(folder).find(folder, detail=True)).values()
    entries = [entry for entry in found if not entry["name"].endswith("/")]  # a folder made in a console
    return sorted((_file_entry(protocol, entry) for entry in entries), key=lambda file: file.url)


def remote_entries(folder: str) -> tuple[list[FileEntry], list[str]]:
    """Return the files in the URL of a folder, sorted by URL, and the sorted names of its folders that are not hidden.

    Raises:
        UserError: As for `remote_errors`.
        RemoteError: All attempts failed.
    """
    protocol = folder.partition("://")[0]
    found = retried(folder, lambda: file_system(folder).ls(folder, detail=True))
    files = [entry for entry in found if entry["type"] == "file" and not entry["name"].endswith("/")]
    names = (entry["name"].rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == "directory")
    entries = sorted((_file_entry(protocol, entry) for entry in files), key=lambda file: file.url)
    return entries, sorted(name for name in names if not name.startswith("."))


def entries_if_any(folder: str) -> tuple[list[FileEntry], list[str]]:
    """Return files and folders as `remote_entries`, none for a folder that is not there.

    Raises:
        UserError: There is no such bucket, or credentials are missing or refused.
        RemoteError: All attempts failed.
    """
    try:
        return remote_entries(folder)
    except UserError as error:
        if not isinstance(error.__cause__, FileNotFoundError) or _is_missing_bucket(error):
            raise
        return [], []


def remote_file(url: str) -> FileEntry:
    """Return the file at the URL `url`.

    Raises:
        UserError: There is no such file, with the most similar name in its folder; or as for `remote_errors`.
        RemoteError: All attempts failed.
    """
    try:
        entry = retried(url, lambda: file_system(url).info(url))
    except UserError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        names = [file.url for file in entries_if_any(url.rpartition("/")[0])[0]]  # a missing bucket is named here
        raise UserError(f"there is no file {printable(url)}{nearest(url, names)}") from error.__cause__
    if entry["type"] != "file":
        raise UserError(f"{printable(url)} is a folder, expected a file")
    return _file_entry(url.partition("://")[0], entry)


def existing_file(url: str) -> FileEntry | None:
    """Return the file at the URL `url`, whose characters stand for themselves; None if there is none.

    Raises:
        UserError: There is no such bucket, or as for `remote_errors`.
        RemoteError: All attempts failed.
    """
    try:
        entry = retried(url, lambda: file_system(url).info(url))
    except UserError as error:
        if not isinstance(error.__cause__, FileNotFoundError) or _is_missing_bucket(error):
            raise
        return None
    return _file_entry(url.partition("://")[0], entry) if entry["type"] == "file" else None


def _is_missing_bucket(error: UserError) -> bool:
    return "bucket does not" in str(error.__cause__)


def _file_entry(protocol: str, entry: dict[str, Any]) -> FileEntry:
    name, size = entry["name"], entry["size"]
    version = next((str(entry[key]) for key in _VERSIONS if entry.get(key)), "")
    return FileEntry(name if is_remote(name) else f"{protocol}://{name.lstrip('/')}", size or 0, version)
