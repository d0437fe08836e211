import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from file_clock import wait_for_clock
from gcnet.data.decode import ImageError
from gcnet.data.images import shard_index
from gcnet.data.images.check import shared_notes
from gcnet.data.images.find_inputs import find_inputs
from gcnet.data.images.labeled import open_labeled, open_labeled_validation
from gcnet.data.images.open import open_data
from gcnet.data.images.shard_files import find_shards
from gcnet.data.images.shard_index import build_index
from gcnet.data.images.shards import ShardLayout
from gcnet.data.index_file import map_index, save_index
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError
from shard_writing import image_bytes, write_tar


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))


def write_shards(folder: Path, labels: list[str], *, split: str = "train", shards: int = 2) -> str:
    """Write images with these labels, whose gray values count from 1, to shards in turn."""
    for shard in range(shards):
        members = {}
        for number in range(shard, len(labels), shards):
            members |= {f"{number}.png": image_bytes(number + 1), f"{number}.cls": labels[number].encode()}
        write_tar(folder / f"{split}-{shard}.tar", members)
    return f"{folder}/{split}-*.tar"


def labels_of(data: str) -> list[str]:
    """Class name of each training image."""
    images = ShardLayout(data).open("train")
    return [images.classes[images.label(index)] for index in range(len(images))]


def test_every_image_has_its_pixels_and_its_label(tmp_path: Path) -> None:
    write_shards(tmp_path, ["dog", "cat", "dog", "emu", "cat"])
    write_shards(tmp_path, ["emu", "cat"], split="val")
    train, val = open_labeled(DataSettings(data=f"{tmp_path}/{{train,val}}-*.tar"), 0)
    assert train.classes == val.classes == ("cat", "dog", "emu")
    found = [(train.name(index), train.read(index).getpixel((0, 0))[0]) for index in range(5)]
    assert found == [("0.png", 1), ("2.png", 3), ("4.png", 5), ("1.png", 2), ("3.png", 4)]
    assert [train.classes[train.label(index)] for index in range(5)] == ["dog", "dog", "cat", "cat", "emu"]
    assert [val.label(index) for index in range(2)] == [2, 0]
    assert [train.file_size(index) for index in range(5)] == [len(image_bytes(value)) for value in (1, 3, 5, 2, 4)]


def test_numbers_are_class_indices_named_by_the_info_file(tmp_path: Path) -> None:
    data = write_shards(tmp_path, ["10", "2", "0"])
    images = ShardLayout(data).open("train")
    assert images.classes == tuple(map(str, range(11)))
    assert [images.label(index) for index in range(3)] == [10, 0, 2]
    (tmp_path / "_info.json").write_text(json.dumps({"classes": ["n3", "n1", "n2"]}))
    with pytest.raises(UserError, match="the label 10 must be below the number of classes, 3"):
        ShardLayout(data).open("train")
    write_shards(tmp_path, ["1", "2", "0"])
    images = ShardLayout(data).open("train")
    assert images.classes == ("n3", "n1", "n2")
    assert [images.label(index) for index in range(3)] == [1, 0, 2]
    known = ShardLayout(data).open("train", classes=["n1", "n2", "n3"])
    assert [known.label(index) for index in range(3)] == [0, 2, 1]


def test_an_unknown_class_is_named(tmp_path: Path) -> None:
    data = write_shards(tmp_path, ["cat", "cow"], split="val")
    with pytest.raises(UserError, match='class "cow" is not one of the 2 known classes'):
        ShardLayout(data).open("val", classes=["cat", "dog"])
    with pytest.raises(UserError, match="the label 2 must be below the number of classes, 2"):
        ShardLayout(write_shards(tmp_path, ["0", "2"], split="test")).open("test", classes=["cat", "dog"])


def test_numbers_without_names_are_indices_of_the_known_classes(tmp_path: Path) -> None:
    data = write_shards(tmp_path, ["1", "0"], split="val")
    images = ShardLayout(data).open("val", classes=["cat", "dog", "emu"])
    assert images.classes == ("cat", "dog", "emu") and [images.label(index) for index in range(2)] == [1, 0]
    assert any("has no class names: its labels are indices of the known classes" in note for note in images.notes)


def test_samples_without_a_label_are_skipped_with_a_note(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"0.png": image_bytes(), "0.cls": b"1", "1.png": image_bytes()})
    images = ShardLayout(f"{tmp_path}/train-0.tar").open("train")
    assert len(images) == 1
    assert images.notes == (f"{tmp_path}/train-0.tar: skipped 1 sample without a label (.cls or .json), such as 1.png",)
    write_tar(tmp_path / "train-0.tar", {"1.png": image_bytes()})
    with pytest.raises(UserError, match=r"no image has a label: found 1 sample without a label \(.cls or .json\)"):
        ShardLayout(f"{tmp_path}/train-0.tar").open("train")
    write_tar(tmp_path / "train-0.tar", {"0.png": image_bytes(), "0.cls": b"1", "1.png": b"", "1.cls": b"cat"})
    with pytest.raises(UserError, match='labels must be all numbers or all names, found 1 and "cat"'):
        ShardLayout(f"{tmp_path}/train-0.tar").open("train")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.jpg": b"x", "2.jpg": b"x"}, "no image has a label: .* unpack tar files of class folders"),
        ({"1.jpg": b"x", "2.jpg": b"x", "1.cls": b"0", "2.cls": b"0"}, "the files of a sample must follow one another"),
        ({"n01440764.tar": b"x"}, "there are no images: .* unpack it, since it holds tar files"),
        ({"n01/a.b.jpg": b"x", "n01/a.b.cls": b"0"}, "the key of a sample ends at the first dot of its name"),
    ],
    ids=["of a class", "unsorted", "of tar files", "dots"],
)
def test_shards_without_a_sample_say_what_to_do(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    path = write_tar(tmp_path / "train-0.tar", members)
    with pytest.raises(UserError, match=message):
        ShardLayout(str(path)).open("train")


def test_images_too_large_for_the_memory_are_not_read(tmp_path: Path) -> None:
    path, size = tmp_path / "train-0.tar", 1 << 31
    with open(path, "wb") as file:  # of which the file system stores the headers only
        for name, length in (("0.jpg", size), ("0.cls", 1)):
            member = tarfile.TarInfo(name)
            member.size = length
            file.write(member.tobuf(tarfile.GNU_FORMAT))
            file.seek(length + -length % tarfile.BLOCKSIZE, os.SEEK_CUR)
        file.seek(-tarfile.BLOCKSIZE, os.SEEK_CUR)
        file.write(b"1".ljust(tarfile.RECORDSIZE, b"\0"))
    images, (item,) = ShardLayout(str(path)).open("train"), find_inputs([path])
    for read in (lambda: images.read(0), lambda: item.content.read(item.name)):
        with pytest.raises(ImageError, match="0.jpg: 2,147,483,648 bytes, over the limit of 1,073,741,824"):
            read()


def test_equal_names_in_several_shards_get_the_name_of_the_shard(tmp_path: Path) -> None:
    for shard in range(2):
        write_tar(tmp_path / f"train-{shard}.tar", {"0.png": image_bytes(shard), "0.cls": str(shard).encode()})
    images = ShardLayout(str(tmp_path)).open("train")
    assert [images.name(index) for index in range(2)] == ["train-0.tar/0.png", "train-1.tar/0.png"]


def test_damaged_images_have_a_reason(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((7, 5), 50).save(buffer, "PNG")
    whole = buffer.getvalue()
    members = {"0.png": whole[:-30], "0.cls": b"0", "1.png": b"", "1.cls": b"1", "2.png": whole}
    path = write_tar(tmp_path / "train-0.tar", {**members, "2.cls": b"2"})
    images = ShardLayout(str(path)).open("train")
    for index, reason in ((0, "0.png: truncated"), (1, "1.png: empty file")):
        with pytest.raises(ImageError, match=reason):
            images.read(index)
    assert images.read(2).size == (7, 5)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ImageError, match=r"2.png: .*train-0.tar is truncated"):
        images.read(2)
    path.unlink()
    with pytest.raises(ImageError, match="cannot read .*train-0.tar: No such file"):
        pickle.loads(pickle.dumps(images)).read(2)


def test_headers_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_shards(tmp_path, ["cat", "dog", "emu"])
    first = ShardLayout(data).open("train")
    read = shard_index.read_samples
    monkeypatch.setattr(shard_index, "read_samples", None)
    again = ShardLayout(data).open("train")
    assert [again.name(index) for index in range(3)] == [first.name(index) for index in range(3)]
    assert [again.label(index) for index in range(3)] == [first.label(index) for index in range(3)]
    monkeypatch.setattr(shard_index, "read_samples", read)
    write_shards(tmp_path, ["dog", "cat", "emu", "emu"])  # a changed shard is read again
    changed = ShardLayout(data).open("train")
    assert [changed.classes[changed.label(index)] for index in range(4)] == ["dog", "emu", "cat", "emu"]


def test_a_shard_replaced_by_another_of_its_size_and_time_is_read_again(tmp_path: Path) -> None:
    data = write_shards(tmp_path, ["cat", "dog"], shards=1)
    assert labels_of(data) == ["cat", "dog"]
    times = os.stat(tmp_path / "train-0.tar")
    wait_for_clock(tmp_path)
    write_shards(tmp_path, ["dog", "cat"], shards=1)
    os.utime(tmp_path / "train-0.tar", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert labels_of(data) == ["dog", "cat"]


def test_an_index_beside_shards_is_not_used_after_a_shard_has_changed(tmp_path: Path) -> None:
    data = write_shards(tmp_path, ["cat", "dog"], shards=1)
    files = find_shards(data)
    build_index(files).save(tmp_path / "train.index.safetensors", files)
    assert labels_of(data) == ["cat", "dog"]
    write_shards(tmp_path, ["dog", "cat"], shards=1)
    after = os.stat(tmp_path / "train.index.safetensors").st_mtime_ns + 1
    os.utime(tmp_path / "train-0.tar", ns=(after, after))
    assert labels_of(data) == ["dog", "cat"]


@pytest.mark.parametrize(
    "changes",
    [
        {"offsets": np.array([-512, 512])},
        {"offsets": np.array([512, 1 << 40])},
        {"sizes": np.array([1 << 62, 80])},
        {"sizes": np.array([80, -1])},
        {"labels": np.array([0, -1], dtype=np.int32)},
        {"labels": np.array([0, 2], dtype=np.int32)},
        {"labels": np.array([0], dtype=np.int32)},
        {"ends": np.array([3])},
        {"ends": np.array([-1, 3])},
        {"labels": np.array([0.0, 1.0])},
        {"name_ends": np.array([10, 2], dtype=np.uint32)},
        {"name_ends": np.array([5, 99], dtype=np.uint32)},
        {"label_names": ["cat", 1]},
        {"notes": None},
    ],
    ids=str,
)
def test_an_invalid_index_beside_shards_is_not_used(tmp_path: Path, changes: dict[str, object]) -> None:
    data = write_shards(tmp_path, ["cat", "dog"], shards=1)
    files, path = find_shards(data), tmp_path / "train.index.safetensors"
    build_index(files).save(path, files)
    stored = map_index(path)
    arrays = stored.arrays | {name: value for name, value in changes.items() if isinstance(value, np.ndarray)}
    save_index(path, arrays, stored.details | {name: value for name, value in changes.items() if name not in arrays})
    images = ShardLayout(data).open("train")
    assert labels_of(data) == ["cat", "dog"] and [images.read(index).size for index in range(2)] == [(7, 5)] * 2


def test_validation_reads_no_training_shard(tmp_path: Path) -> None:
    write_shards(tmp_path, ["1", "0"])
    write_shards(tmp_path, ["0", "1"], split="val")
    (tmp_path / "_info.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    for path in tmp_path.glob("train-*.tar"):
        path.write_bytes(b"never read" * 100)
    images = open_labeled_validation(DataSettings(data=str(tmp_path)), 0, None)
    assert images.classes == ("cat", "dog") and len(images) == 2


def test_a_fraction_of_the_images_is_held_out(tmp_path: Path) -> None:
    data = write_shards(tmp_path, ["cat", "dog"] * 10, split="part")
    train, val = open_labeled(DataSettings(data=data, val_fraction=0.2), 3)
    assert (len(train), len(val)) == (16, 4)
    names = [source.name(index) for source in (train, val) for index in range(len(source))]
    assert sorted(names) == sorted(f"{number}.png" for number in range(20))


def test_training_shards_alone_need_validation_images(tmp_path: Path) -> None:
    data = write_shards(tmp_path, ["cat", "dog"])
    with pytest.raises(UserError, match="has no validation images: .*or use shards of both splits"):
        open_labeled(DataSettings(data=data), 0)
    val = write_shards(tmp_path / "other", ["dog"], split="images")
    assert open_labeled(DataSettings(data=data, val=val), 0)[1].label(0) == 1


def test_invalid_class_names_are_refused(tmp_path: Path) -> None:
    data = write_shards(tmp_path, ["0", "1"])
    for content, message in (
        ("{", "_info.json is not JSON"),
        ("[]", "must be a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"classes": [1]}', "list"),
        ('{"classes": ["crane", "maillot", "crane"]}', 'must be different names, found "crane" twice'),
    ):
        (tmp_path / "_info.json").write_text(content)
        with pytest.raises(UserError, match=message):
            ShardLayout(data).open("train")


def test_shards_in_both_splits_are_noted_but_not_those_of_held_out_images(tmp_path: Path) -> None:
    data = write_shards(tmp_path, ["cat", "dog"] * 4, split="part")
    (tmp_path / "link.tar").symlink_to("part-1.tar")
    held_out = open_data(DataSettings(data=data, val_fraction=0.5, image_size=8))
    assert shared_notes(held_out.train, held_out.val) == []
    twice = open_data(DataSettings(data=data, val=f"{tmp_path}/link.tar", image_size=8, limit_val=2))
    (note,) = shared_notes(twice.train, twice.val)
    assert note == (
        f"the validation data hold 1 of the training shards, such as {tmp_path}/part-1.tar: accuracy will be "
        "overestimated"
    )
