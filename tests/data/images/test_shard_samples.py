import gzip
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import webdataset

from gcnet.data.images.shard_files import find_shards
from gcnet.data.images.shard_index import open_index
from gcnet.data.images.shard_samples import LINKS, NO_IMAGE, NO_LABEL, ShardSamples, read_samples, split_key
from gcnet.errors import UserError
from shard_writing import image_bytes, write_tar


def samples_of(path: Path) -> ShardSamples:
    return read_samples(find_shards(str(path))[0])


def test_places_of_images_are_those_of_tarfile(tmp_path: Path) -> None:
    long = "a" * 130  # needs a header of its own
    members = {
        "0.jpg": image_bytes(1),
        "0.cls": b"3",
        f"{long}/1.PNG": image_bytes(2),
        f"{long}/1.cls": b" 1\n",
        "2.json": json.dumps({"label": 2, "caption": "x"}).encode(),
        "2.webp": image_bytes(3, "WEBP"),
    }
    path = write_tar(tmp_path / "train-0.tar", members)
    samples = samples_of(path).samples
    assert [(sample.name, sample.label) for sample in samples] == [("0.jpg", 3), (f"{long}/1.PNG", 1), ("2.webp", 2)]
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        for sample in samples:
            assert archive.extractfile(sample.name).read() == data[sample.offset : sample.offset + sample.size]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_samples_are_those_of_webdataset(tmp_path: Path) -> None:
    members = {
        "b/x.jpg": image_bytes(1),
        "b/x.cls": b"3",
        "b/x.seg.png": image_bytes(7),
        "__meta__/y.jpg": image_bytes(2),
        "a.v2.jpg": image_bytes(2),
        "a.cls": b"1",
        "c.cls": b"0",
        "c.jpg": image_bytes(4),
    }
    path = write_tar(tmp_path / "train-0.tar", members)
    everything = webdataset.WebDataset(str(path), shardshuffle=False)
    expected = [sample for sample in everything if {"jpg", "cls"} <= set(sample)]
    found = samples_of(path)
    data = path.read_bytes()
    read = [(split_key(sample.name)[0], data[sample.offset :][: sample.size], sample.label) for sample in found.samples]
    assert read == [(sample["__key__"], sample["jpg"], int(sample["cls"])) for sample in expected]
    assert found.skipped == {NO_IMAGE: 1}


@pytest.mark.parametrize(
    ("members", "label"),
    [
        ({"0.cls": b"cat"}, "cat"),
        ({"0.json": b'{"class_name": "tabby cat"}'}, "tabby cat"),
        ({"0.json": b"5"}, 5),
        ({"0.cls": b"2", "0.json": b'{"label": 4}'}, 2),
        ({"0.txt": b"a photo of a cat"}, None),
        ({"0.json": b'{"caption": "a cat"}'}, None),
        ({"0.cls": b""}, None),
    ],
)
def test_labels_are_numbers_or_names(tmp_path: Path, members: dict[str, bytes], label: int | str | None) -> None:
    found = samples_of(write_tar(tmp_path / "0.tar", {"0.jpg": image_bytes(), **members}))
    assert [sample.label for sample in found.samples] == ([] if label is None else [label])
    assert found.skipped == ({NO_LABEL: 1} if label is None else {})


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("0.cls", b"-1", "a class index must be 0 or more and below 1,000,000, found -1"),
        ("0.cls", b"2000000000", "a class index must be 0 or more and below 1,000,000, found 2000000000"),
        ("0.cls", b"\xff\xfe", "must be text, a class index or name"),
        ("0.json", b"{", "is not JSON"),
        ("0.json", b'{"label": [1, 2]}', r"the label must be a class index or name, found \[1, 2\]"),
        ("0.json", b"[" * 100_000, "is not JSON"),
    ],
)
def test_an_invalid_label_is_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = write_tar(tmp_path / "shard.tar", {"0.jpg": image_bytes(), name: data})
    with pytest.raises(UserError, match=f"shard.tar: {name}.*{message}"):
        samples_of(path)


def test_every_truncated_shard_is_refused(tmp_path: Path) -> None:
    members = {f"{number}{suffix}": image_bytes() for number in range(3) for suffix in (".jpg", ".png")}
    data = write_tar(tmp_path / "whole.tar", members).read_bytes()
    end = len(data.rstrip(b"\0"))
    path = tmp_path / "shard.tar"
    for length in (0, 1, 511, 512, 700, 1023, 1024, 1536, 2000, end - 600, end):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="shard.tar is damaged or truncated"):
            samples_of(path)


def test_every_damaged_header_is_refused(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "whole.tar", {"0.jpg": image_bytes(), "0.cls": b"1"}).read_bytes()
    path = tmp_path / "shard.tar"
    starts = [start for start in range(0, len(data), 512) if data[start + 257 : start + 262] == b"ustar"]
    assert len(starts) == 2
    for start in starts:
        path.write_bytes(data[: start + 150] + b"\xa5" + data[start + 151 :])  # in the checksum
        with pytest.raises(UserError, match="shard.tar is damaged or truncated"):
            samples_of(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(bytes(10240)), r"is compressed \(gzip\): decompress it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "is an HTML page: the download failed"),
    ],
    ids=["gzip", "LFS", "HTML"],
)
def test_a_file_that_is_no_tar_file_is_described(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "shard.tar").write_bytes(data)
    with pytest.raises(UserError, match=f"shard.tar {message}"):
        samples_of(tmp_path / "shard.tar")


@pytest.mark.parametrize(("kind", "content"), [(b"L", b"abc"), (b"x", b"12 path=abc\n")])
def test_a_long_chain_of_extended_headers_is_refused(tmp_path: Path, kind: bytes, content: bytes) -> None:
    member = tarfile.TarInfo("name")
    member.type, member.size = kind, len(content)
    path = tmp_path / "shard.tar"
    path.write_bytes((member.tobuf(tarfile.USTAR_FORMAT) + content.ljust(512, b"\0")) * 1500)
    with pytest.raises(UserError, match="shard.tar is damaged or truncated"):
        samples_of(path)


def test_joined_tar_files_are_refused_since_readers_stop_at_the_first_end(tmp_path: Path) -> None:
    shards = [write_tar(tmp_path / f"{name}.tar", {f"{name}.jpg": image_bytes(), f"{name}.cls": b"1"}) for name in "ab"]
    path = tmp_path / "shard.tar"
    path.write_bytes(b"".join(shard.read_bytes() for shard in shards))
    with pytest.raises(UserError, match="more files follow the end of the archive at byte 2,0"):
        samples_of(path)


def test_a_declared_size_beyond_the_shard_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("0.jpg")
    member.size = 1 << 40
    path = tmp_path / "shard.tar"
    path.write_bytes(member.tobuf() + image_bytes() + bytes(4096))
    with pytest.raises(UserError, match="damaged or truncated: 0.jpg ends at byte 1,099,511,6"):
        samples_of(path)


def test_links_and_folders_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("0.jpg", tarfile.SYMTYPE), ("1.jpg", tarfile.LNKTYPE), ("2.jpg", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("../../outside.jpg")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    found = samples_of(path)
    assert found.samples == [] and found.skipped == {LINKS: 2, NO_LABEL: 1}
    assert not (tmp_path.parent.parent / "outside.jpg").exists()


def test_two_members_of_a_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("0.jpg"), io.BytesIO())
    with pytest.raises(UserError, match=r"shard.tar has 0.jpg twice"):
        samples_of(path)


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=posix"], ["--format=posix", "--sparse"]])
def test_links_and_sparse_files_are_counted(options: list[str], tmp_path: Path) -> None:
    """GNU tar stores the second of two hard-linked files as a link, which WebDataset skips silently."""
    folder = tmp_path / "files"
    folder.mkdir()
    for key in "abc":
        (folder / f"{key}.png").write_bytes(image_bytes(ord(key)))
        (folder / f"{key}.cls").write_text("1")
    (folder / "b.cls").unlink()
    os.link(folder / "a.cls", folder / "b.cls")
    (folder / "c.png").unlink()
    (folder / "c.png").symlink_to("a.png")
    if "--sparse" in options:
        os.truncate(folder / "a.png", 10 << 20)
    (folder / "x.png").symlink_to("a.png")
    names = ["a.cls", "x.png", "a.png", "b.cls", "b.png", "c.cls", "c.png"]  # x.png does not end the sample a
    path = tmp_path / "train-0.tar"
    subprocess.run(["tar", *options, "-cf", path, "-C", folder, *names], check=True)
    found = samples_of(path)
    assert [sample.name for sample in found.samples] == ([] if "--sparse" in options else ["a.png"])
    assert found.skipped == {LINKS: 4 - len(found.samples)}
    if found.samples:
        assert open_index(find_shards(str(path)), "x").notes == (
            f"{path}: skipped 3 samples with links or sparse files, which are not read, such as b.cls",
        )
    else:
        with pytest.raises(UserError, match="found 4 samples with links or sparse files.*; write the files themselves"):
            open_index(find_shards(str(path)), "x")
