"""Uploads are verified and repeated, and only one of several writers creates a file."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gcnet import remote_uploads
from gcnet.remote_files import RemoteError, file_system, read_remote


def test_only_one_of_several_writers_creates_a_file(s3: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        created = list(pool.map(lambda number: remote_uploads.create_remote(b"%d" % number, f"{s3}/file"), range(8)))
    assert sum(created) == 1
    assert read_remote(f"{s3}/file") == b"%d" % created.index(True)


def test_removed_file_is_gone_and_a_missing_one_no_error(s3: str) -> None:
    remote_uploads.upload_bytes(b"content", f"{s3}/file")
    remote_uploads.remove_remote(f"{s3}/file")
    remote_uploads.remove_remote(f"{s3}/file")
    assert not file_system(s3).exists(f"{s3}/file")


def test_failed_requests_are_repeated(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    put, attempts = s3fs.S3FileSystem.put_file, []

    def fails_twice(self: Any, *arguments: Any, **options: Any) -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionError("reset")
        put(self, *arguments, **options)

    monkeypatch.setattr("gcnet.remote_files._FIRST_PAUSE", 0.0)
    monkeypatch.setattr(s3fs.S3FileSystem, "put_file", fails_twice)
    (tmp_path / "file").write_bytes(b"content")
    remote_uploads.upload(tmp_path / "file", f"{s3}/file", remote_uploads.content_of(tmp_path / "file"))
    assert read_remote(f"{s3}/file") == b"content"
    assert len(attempts) == 3


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 7, 2**25 - 1, 2**25, 2**25 + 2**24 + 3])
def test_etag_of_uploads_in_one_part_and_in_several_is_that_of_the_server(s3: str, tmp_path: Path, size: int) -> None:
    path, url = tmp_path / "file", f"{s3}/file"
    path.write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
    content = remote_uploads.content_of(path)
    remote_uploads.upload(path, url, content)
    assert file_system(url).info(url)["ETag"].strip('"') == content.etag
    assert read_remote(url) == path.read_bytes()


def test_upload_that_is_stored_with_other_bytes_is_an_error(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, url = tmp_path / "file", f"{s3}/file"
    path.write_bytes(b"content")
    content = remote_uploads.content_of(path)
    monkeypatch.setattr("gcnet.remote_files._FIRST_PAUSE", 0.0)
    for stored, message in ((b"CONTENT", "other bytes than those sent"), (b"conten", "not stored whole: 6 of 7 bytes")):
        monkeypatch.setattr(
            "s3fs.S3FileSystem.put_file", lambda self, _path, url, stored=stored, **_: self.pipe_file(url, stored)
        )
        with pytest.raises(RemoteError, match=message):
            remote_uploads.upload(path, url, content)
