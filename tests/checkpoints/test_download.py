"""Downloads from a server of this machine: whole and checked files only, and nothing else in the cache."""

import hashlib
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from file_server import FileServer, published, served
from gcnet.checkpoints import download
from gcnet.checkpoints.download import check_digest, checkpoint_file
from gcnet.checkpoints.published_files import PublishedFile
from gcnet.errors import Failure, UserError
from gcnet.storage import StorageError

_CONTENT = bytes(range(256)) * 9001


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Generator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with served(_CONTENT) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _published(url: str) -> PublishedFile:
    return published(url, _CONTENT)


def _visible(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"] if folder.exists() else []


def test_a_file_is_downloaded_once(server: FileServer, cache: Path) -> None:
    file = _published(server.url)
    path = checkpoint_file(file, download=True)
    assert path.read_bytes() == _CONTENT
    assert _visible(cache) == [file.file_name]
    assert checkpoint_file(file, download=True) == checkpoint_file(file, download=False) == path
    assert server.requests == 1


def test_nothing_is_downloaded_without_leave(server: FileServer, cache: Path) -> None:
    file = _published(server.url)
    with pytest.raises(UserError, match="add `download` to download it, or save http") as error:
        checkpoint_file(file, download=False)
    assert file.url in str(error.value) and str(cache / file.file_name) in str(error.value)
    assert server.requests == 0 and not cache.exists()


def test_a_file_with_another_hash_is_refused(server: FileServer, cache: Path) -> None:
    file = _published(server.url)
    server.content = _CONTENT[:-1] + b"?"
    found = hashlib.sha256(server.content).hexdigest()[:8]
    with pytest.raises(Failure, match=f"begins with {found}, expected {file.digest}"):
        checkpoint_file(file, download=True)
    assert _visible(cache) == []


def test_a_truncated_file_is_refused(server: FileServer, cache: Path) -> None:
    server.declared = len(_CONTENT) + 17
    with pytest.raises(Failure, match=f"ended after {len(_CONTENT):,} of {len(_CONTENT) + 17:,} bytes"):
        checkpoint_file(_published(server.url), download=True)
    assert _visible(cache) == []


def test_a_file_without_a_declared_length_is_downloaded(server: FileServer, cache: Path) -> None:
    server.declared = 0
    assert checkpoint_file(_published(server.url), download=True).read_bytes() == _CONTENT
    assert len(_visible(cache)) == 1


@pytest.mark.parametrize("status", [404, 403, 500])
def test_an_error_of_the_server_is_one_sentence(server: FileServer, cache: Path, status: int) -> None:
    server.status = status
    with pytest.raises(Failure, match=rf"the server answers {status} \(.+\) for http://127"):
        checkpoint_file(_published(server.url), download=True)
    assert _visible(cache) == []


def test_without_a_server_the_url_and_the_path_are_named(cache: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = _published(f"http://127.0.0.1:{port}")
    with pytest.raises(Failure, match="127.0.0.1 cannot be reached") as error:
        checkpoint_file(file, download=True)
    assert file.url in str(error.value) and str(cache / file.file_name) in str(error.value)
    assert _visible(cache) == []


def test_a_declared_length_is_checked_before_anything_is_stored(
    server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.declared = 2**50
    with pytest.raises(Failure, match=f"declares {2**50:,} bytes, the limit is {2**32:,}"):
        checkpoint_file(_published(server.url), download=True)
    monkeypatch.setattr(download, "LARGEST_FILE", 2**60)
    with pytest.raises(StorageError, match=f"it has {2**50:,} bytes, but [0-9,]+ are free"):
        checkpoint_file(_published(server.url), download=True)
    assert _visible(cache) == []


def test_more_than_the_limit_is_not_stored(server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.declared = 0
    monkeypatch.setattr(download, "LARGEST_FILE", len(_CONTENT) - 1)
    with pytest.raises(Failure, match="sends more than"):
        checkpoint_file(_published(server.url), download=True)
    assert _visible(cache) == []


def test_an_interrupted_download_leaves_nothing(
    server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> Generator[bytes]:
        yield next(chunks(*arguments))
        assert any(path.suffix == ".tmp" for path in cache.iterdir())
        raise KeyboardInterrupt

    chunks = download._chunks
    monkeypatch.setattr(download, "_chunks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint_file(_published(server.url), download=True)
    assert _visible(cache) == []


def test_a_cached_file_with_another_hash_is_refused(cache: Path) -> None:
    cache.mkdir()
    file = _published("http://127.0.0.1")
    path = cache / file.file_name
    path.write_bytes(_CONTENT)
    check_digest(file, path)
    path.write_bytes(_CONTENT[1:])
    with pytest.raises(Failure, match=f"expected {file.digest}; remove it"):
        check_digest(file, path)


def test_a_cache_that_cannot_be_written_is_one_sentence(server: FileServer, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(StorageError, match="cannot create .*cache"):
        checkpoint_file(_published(server.url), download=True)
