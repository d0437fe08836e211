"""Files at URLs, on an S3 server of this machine and on fsspec's file system in memory."""

import itertools
import multiprocessing
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import fsspec
import pytest

from gcnet.errors import UserError
from gcnet.remote_files import (
    RemoteError,
    check_without_secret,
    existing_file,
    file_system,
    find_remote,
    is_remote,
    read_ranges,
    read_remote,
    retried,
)
from gcnet.remote_uploads import upload_bytes
from s3_server import forget_file_systems


def test_files_of_a_pattern_are_listed_in_order_with_their_sizes(s3: str) -> None:
    system = file_system(s3)
    for number in (2, 0, 1):
        system.pipe_file(f"{s3}/shards/train-{number}.tar", b"x" * number)
    system.pipe_file(f"{s3}/shards/val-0.tar", b"x")
    files = find_remote(f"{s3}/shards/train-*.tar")
    assert [file.url for file in files] == [f"{s3}/shards/train-{number}.tar" for number in range(3)]
    assert [file.size for file in files] == [0, 1, 2]
    assert find_remote(f"{s3}/shards/test-*.tar") == []


def test_the_version_of_a_file_changes_with_its_content(s3: str) -> None:
    url = f"{s3}/file"
    file_system(url).pipe_file(url, b"before")
    (before,) = find_remote(url)
    file_system(url).pipe_file(url, b"behind")
    (after,) = find_remote(url)
    assert before.size == after.size
    assert before.version != after.version


def test_ranges_of_a_file_are_read(s3: str) -> None:
    url = f"{s3}/file"
    file_system(url).pipe_file(url, bytes(range(97)))
    assert read_remote(url, 13, 31) == bytes(range(13, 31))
    assert read_remote(url) == bytes(range(97))


def test_a_forked_process_reads_with_connections_of_its_own(s3: str) -> None:
    url = f"{s3}/file"
    file_system(url).pipe_file(url, b"content")
    assert read_remote(url) == b"content"
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        assert list(pool.map(read_remote, [url] * 5)) == [b"content"] * 5


def test_missing_files_and_buckets_are_named(s3: str) -> None:
    with pytest.raises(UserError, match="nothing at s3://bucket/none"):
        read_remote(f"{s3}/none")
    with pytest.raises(UserError, match="nothing at s3://other/none: The specified bucket does not exist"):
        read_remote("s3://other/none")


def test_urls_without_a_bucket_are_refused() -> None:
    for url in ("s3://", "s3:///", "s3:"):
        with pytest.raises(UserError, match=f"^{url} names no bucket, as s3://bucket/folder does$"):
            read_remote(url)


def test_missing_credentials_are_named(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    forget_file_systems()
    with pytest.raises(UserError, match="no credentials for s3://bucket/file .*: set AWS_ACCESS_KEY_ID"):
        read_remote(f"{s3}/file")


def test_a_failing_request_is_repeated_and_then_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    file_system("memory://file").pipe_file("/file", b"content")
    attempts = []

    def failing(_path: str, start: int | None = None, end: int | None = None) -> bytes:
        attempts.append((start, end))
        if len(attempts) == 2:
            return b"content"
        raise OSError("connection reset")

    monkeypatch.setattr("gcnet.remote_files._FIRST_PAUSE", 0.0)
    monkeypatch.setattr(file_system("memory://file"), "cat_file", failing)
    assert read_remote("memory://file", 0, 7) == b"content"
    with pytest.raises(RemoteError, match="cannot access memory://file: connection reset"):
        read_remote("memory://file")
    assert len(attempts) == 2 + 6


class ReadTimeoutError(Exception):
    """As botocore's, which has repeated the request."""


class ClientPayloadError(Exception):
    """As aiohttp's for a connection that was cut."""


@pytest.mark.parametrize(
    ("error", "attempts", "expected"),
    [
        (ClientPayloadError("3 of 100 bytes"), 6, RemoteError),
        (OSError("503"), 6, RemoteError),
        (ReadTimeoutError("no answer"), 1, RemoteError),
        (FileNotFoundError("no key"), 1, UserError),
        (PermissionError("Forbidden"), 1, UserError),
        (ValueError("Invalid endpoint: x"), 1, RemoteError),
    ],
)
def test_requests_are_repeated_unless_that_is_of_no_use(
    monkeypatch: pytest.MonkeyPatch, error: Exception, attempts: int, expected: type[UserError]
) -> None:
    made = []

    def request() -> None:
        made.append(1)
        raise error

    monkeypatch.setattr("gcnet.remote_files._FIRST_PAUSE", 0.0)
    with pytest.raises(expected, match=f"s3://bucket/file.*: {error}$") as found:
        retried("s3://bucket/file", request)
    assert type(found.value) is expected and len(made) == attempts


@pytest.mark.slow
@pytest.mark.parametrize(
    "request_of",
    [lambda url: read_remote(url), lambda url: read_ranges([(url, 0, 5)]), lambda url: existing_file(url)],
    ids=["file", "ranges", "entry"],
)
def test_a_server_that_does_not_answer_is_waited_for_three_times(
    s3: str, monkeypatch: pytest.MonkeyPatch, request_of: Callable[[str], object]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the system accepts connections, and nothing reads them
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        forget_file_systems()
        monkeypatch.setattr(file_system(s3), "read_timeout", 0.2)
        with pytest.raises(RemoteError, match="cannot access s3://bucket/file: Read timeout on endpoint URL"):
            request_of(f"{s3}/file")
        assert accepted(listener) == 3
        monkeypatch.setattr("gcnet.remote_files._LONGEST_ATTEMPT", 0.1)
        with pytest.raises(RemoteError, match="cannot access s3://bucket/file: the server did not answer within 0 s"):
            request_of(f"{s3}/file")
        assert accepted(listener) == 1, "a server that has not answered is waited for once"


def accepted(listener: socket.socket) -> int:
    """The number of connections that wait to be accepted."""
    listener.settimeout(0.5)
    for number in itertools.count():
        try:
            listener.accept()[0].close()
        except TimeoutError:
            return number
    raise AssertionError


@pytest.mark.parametrize("size", [3, 20_000_000])
def test_an_upload_to_a_server_that_does_not_take_it_ends(s3: str, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setattr("gcnet.remote_files._LONGEST_ATTEMPT", 0.3)
        monkeypatch.setattr("gcnet.remote_files._LEAST_SPEED", 1e9)
        forget_file_systems()
        with pytest.raises(RemoteError, match="cannot access s3://bucket/file: the server did not answer within 1 s"):
            upload_bytes(b"x" * size, f"{s3}/file")


def test_unknown_protocols_and_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match='unknown protocol "gss://"; did you mean "gs"'):
        read_remote("gss://bucket/file")
    forget_file_systems()
    monkeypatch.setattr(fsspec, "filesystem", without_library)
    with pytest.raises(UserError, match=r'require fsspec and s3fs: pip install "gcnet\[cloud\]"'):
        read_remote("s3://bucket/file")


def without_library(protocol: str, **_: object) -> None:
    raise ImportError(f"Install s3fs to access {protocol}")


@pytest.mark.parametrize(
    ("path", "expected"),
    [("s3://bucket/key", True), ("memory://a", True), ("photos", False), ("C:\\photos", False), ("a/b://c", False)],
)
def test_urls_have_a_protocol(path: str, expected: bool) -> None:
    assert is_remote(path) is expected


@pytest.mark.parametrize("url", ["s3://KEY:a/b+c@bucket/shards", "https://me:abc@host/x.tar"])
@pytest.mark.parametrize("check", [check_without_secret, find_remote, read_remote])
def test_urls_with_a_secret_are_refused_without_showing_it(url: str, check: Callable[[str], object]) -> None:
    with pytest.raises(UserError, match="must not contain a password or secret key") as error:
        check(url)
    assert "abc" not in str(error.value) and "a/b" not in str(error.value) and "KEY:a" not in str(error.value)
    with pytest.raises(UserError, match="must not contain"):  # as pathlib changes it
        check_without_secret(url.replace("//", "/"))


@pytest.mark.parametrize(
    "url",
    [
        *("abfs://container@account.dfs.core.windows.net/x", "http://localhost:9000/x@2x.jpg", "s3://bucket/a:b@c"),
        *("s3://arn:aws:s3:eu-west-1:1:accesspoint/p/a@b", "hf://user/name@v1", "photos/a:b@c"),
    ],
)
def test_urls_with_an_at_sign_need_no_secret(url: str) -> None:
    check_without_secret(url)


def test_urls_of_files_on_this_machine_are_refused() -> None:
    with pytest.raises(UserError, match="a path on this machine is given without file://, found file:///data/x.tar"):
        find_remote("file:///data/x.tar")
