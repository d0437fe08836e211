from pathlib import Path

import braceexpand
import pytest

from gcnet.data.images.shard_files import RangeReader, expand_braces, find_shards, is_shards, split_of_shard
from gcnet.errors import UserError
from open_files import open_files
from shard_writing import write_tar


@pytest.mark.parametrize(
    "pattern",
    ["train-{000..011}.tar", "{train,val}-{8..10}.tar", "{a,b}/{train,val}-*.tar", "x.tar", "{train}-1.tar", "{7..7}"],
)
def test_braces_expand_as_in_a_shell(pattern: str) -> None:
    assert list(expand_braces(pattern)) == list(braceexpand.braceexpand(pattern))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train-0", "train-1", "train-2", "val-0", "other"):
        write_tar(tmp_path / "shards" / f"{name}.tar", {})
    return tmp_path / "shards"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{}/train-*.tar", ["train-0", "train-1", "train-2"]),
        ("{}/{{train,val}}-*.tar", ["train-0", "train-1", "train-2", "val-0"]),
        ("{}/train-{{1..2}}.tar", ["train-1", "train-2"]),
        ("{}/other.tar", ["other"]),
        ("{0}/val-*.tar::{0}/train-{{1..2}}.tar::{0}/other.tar", ["other", "train-1", "train-2", "val-0"]),
        ("{}/", ["other", "train-0", "train-1", "train-2", "val-0"]),
    ],
)
def test_shards_of_a_pattern_are_in_the_order_of_their_names(folder: Path, pattern: str, expected: list[str]) -> None:
    data = pattern.format(folder)
    assert is_shards(data)
    assert [Path(file.url).stem for file in find_shards(data)] == expected


def test_a_missing_shard_of_a_range_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match="there is no shard .*train-3.tar; did you mean .*train-"):
        find_shards(f"{folder}/train-{{0..3}}.tar")
    with pytest.raises(UserError, match=r"no shard matches .*test-\*.tar"):
        find_shards(f"{folder}/test-*.tar")
    with pytest.raises(UserError, match="without compression, found .*train.tar.gz: decompress them"):
        find_shards(f"{folder}/train.tar.gz")


def test_class_folders_beside_an_archive_are_no_shards(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    write_tar(tmp_path / "train.tar", {})
    assert not is_shards(str(tmp_path))
    assert is_shards(str(tmp_path / "train.tar"))


def test_folders_and_files_of_any_name_are_taken(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.tar" / "cat").mkdir(parents=True)
    assert not is_shards(str(tmp_path / "classes.tar"))
    shards = folder.rename(tmp_path / "shards.tar")
    assert is_shards(str(shards)) and len(find_shards(str(shards))) == 5
    (shards / "train-0.tar").rename(tmp_path / "X.TAR")
    assert [file.url for file in find_shards(f"{tmp_path}/X.TAR")] == [f"{tmp_path}/X.TAR"]
    both = write_tar(tmp_path / "a.tar::b.tar", {})
    assert [file.url for file in find_shards(str(both))] == [str(both)]


@pytest.mark.parametrize(
    ("url", "split"),
    [
        ("shards/imagenet1k-validation-07.tar", "val"),
        ("s3://bucket/train/000000.tar", "train"),
        ("shards/test-0.tar", "test"),
        ("shards/000000.tar", None),
    ],
)
def test_names_and_folders_of_shards_name_the_split(url: str, split: str | None) -> None:
    assert split_of_shard(url) == split


def test_more_files_than_may_be_open_are_read(tmp_path: Path) -> None:
    reader = RangeReader()
    for number in range(300):
        (tmp_path / str(number)).write_bytes(bytes(range(100)) + number.to_bytes(2, "big"))
    for _ in range(2):
        for number in range(300):
            assert reader.read(str(tmp_path / str(number)), 99, 3) == b"\x63" + number.to_bytes(2, "big")
    assert 0 < len(open_files(tmp_path)) <= 128
    del reader
    assert not open_files(tmp_path)
