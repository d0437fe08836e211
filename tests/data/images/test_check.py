"""Problems of labeled images, against data made with a known number of each kind."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.images.test_folders import add_classes
from gcnet.data.images.check import check_images, shared_notes
from gcnet.data.images.class_balance import balanced_weights, class_notes, describe_counts
from gcnet.data.images.folders import FolderImages
from gcnet.data.images.labeled import open_splits
from gcnet.data.images.table import CsvImages
from gcnet.data.sampler import EpochSampler


def write_photos(root: Path) -> Path:
    """Two splits of two classes: 4 and 2 images of noise each, all different."""
    random = np.random.default_rng(7)
    for split, count in (("train", 4), ("valid", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (11, 13, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def test_clean_data_have_no_issues_and_are_described(tmp_path: Path) -> None:
    report = check_images(open_splits(str(write_photos(tmp_path))), workers=2)
    assert report.issues == ()
    assert {name: split.images for name, split in report.splits.items()} == {"train": 8, "val": 4}
    train = report.splits["train"]
    assert (train.per_class, train.modes, set(train.sizes)) == ({"cat": 4, "dog": 4}, {"RGB": 8}, {(13, 11)})


def test_each_kind_of_problem_is_found_where_it_is(tmp_path: Path) -> None:
    root = write_photos(tmp_path)
    cat, dog, val = root / "train" / "cat", root / "train" / "dog", root / "valid" / "cat"
    shutil.copy(cat / "0.png", val / "leak.png")
    shutil.copy(cat / "1.png", dog / "conflict.png")
    shutil.copy(cat / "2.png", cat / "again.png")
    (dog / "3.png").write_bytes(b"")
    (root / "train" / "bird").mkdir()
    shutil.copy(cat / "3.png", root / "train" / "bird" / "x.tif.txt")
    report = check_images(open_splits(str(root)))
    found = {(issue.kind, issue.place): issue.details for issue in report.issues}
    assert found == {
        ("unreadable image", "train/dog/3.png"): "empty file",
        ("class without images", "val/bird"): "no images",
        ("class without training images", "train/bird"): "no images",
        ("image in several splits", "train/cat/0.png"): "the same bytes as val/cat/leak.png",
        ("image with several labels", "train/cat/1.png"): "the same bytes as train/dog/conflict.png",
        ("repeated image", "train/cat/2.png"): "the same bytes as train/cat/again.png",
    }
    assert "1 file of unsupported formats (1 .txt)" in report.splits["train"].notes[0]


def test_a_table_and_a_folder_without_splits_are_checked_too(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos")
    assert list(open_splits(str(root / "train"))) == ["all"]
    rows = ["train/cat/0.png,cat,train", "train/dog/0.png,dog,train", "valid/cat/0.png,cat,test"]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    splits = open_splits(str(tmp_path / "list.csv"), str(root))
    assert {name: len(split) for name, split in splits.items()} == {"train": 2, "test": 1}
    assert Counter(issue.kind for issue in check_images(splits).issues) == {"class without images": 1}


LABELS = [0] * 12 + [1] * 4 + [2] * 1  # 17 images


def epoch(number: int, *, world: int = 1, rank: int = 0, start: int = 0) -> list[tuple[int, int]]:
    sampler = EpochSampler(17, batch_size=4, seed=5, labels=LABELS, rank=rank, world=world)
    sampler.start(4 * number + start)
    return [key for batch in sampler for key in batch]


def test_weights_are_n_over_k_times_n_c_and_1_on_average() -> None:
    assert balanced_weights([12, 4, 1]) == pytest.approx([17 / 36, 17 / 12, 17 / 3])
    ant, bee, cat = balanced_weights([12, 4, 1])
    assert 12 * ant + 4 * bee + 1 * cat == pytest.approx(17)
    assert balanced_weights([6, 0, 2]) == pytest.approx([8 / 12, 0, 8 / 4])


def test_an_epoch_draws_every_class_equally_often_and_its_images_in_turn() -> None:
    sampler = EpochSampler(17, batch_size=1, seed=5, labels=LABELS)
    for _ in range(3):
        keys = [key for [key] in sampler]
        assert len(set(keys)) == len(keys) == 17  # a repeated image has a key, and so a seed, of its own
        drawn = Counter(index for _, index in keys)
        assert sorted(sum(drawn[i] for i in range(17) if LABELS[i] == label) for label in range(3)) == [5, 6, 6]
        assert {drawn[index] for index in range(12)} == {0, 1}
        assert {drawn[index] for index in range(12, 16)} <= {1, 2}
        assert drawn[16] in (5, 6)


def test_balanced_draws_follow_from_seed_and_step_alone() -> None:
    assert epoch(1) == epoch(1) != epoch(0)
    assert epoch(1, start=2) == epoch(1)[8:]
    shares = [epoch(1, world=2, rank=rank) for rank in (0, 1)]
    batches = [shares[0][i : i + 2] + shares[1][i : i + 2] for i in range(0, 8, 2)]
    assert [sorted(batch) for batch in batches] == [sorted(epoch(1)[i : i + 4]) for i in range(0, 16, 4)]


def test_imbalance_is_noted_above_ten_to_one_unless_training_is_balanced(tmp_path: Path) -> None:
    from data.images.test_folders import add_classes
    from gcnet.data.images.folders import FolderImages

    add_classes(tmp_path, 11, ("dog",))
    add_classes(tmp_path, 1, ("cat",))
    images = FolderImages(tmp_path)
    assert '11 training images of "dog", 1 of "cat"; use `class_weights=balanced` or' in class_notes(images, images)[0]
    assert class_notes(images, images, balanced=True) == []
    (tmp_path / "dog" / "10.png").unlink()
    assert class_notes(FolderImages(tmp_path), FolderImages(tmp_path)) == []
    assert (describe_counts([3, 1]), describe_counts([2, 2])) == ("min 1, max 3 per class", "2 per class")


def test_classes_without_training_or_validation_images_are_noted(tmp_path: Path) -> None:
    from data.images.test_folders import add_classes
    from gcnet.data.images.folders import FolderImages

    classes = tuple("abcdefgh")
    some = FolderImages(add_classes(tmp_path / "some", 11, ("a",)), classes=classes)
    images = FolderImages(add_classes(tmp_path / "all", 1, classes))
    assert class_notes(images, some) == [
        'no validation image in classes "b", "c", "d", "e", "f" and 2 more: the accuracy says nothing about them'
    ]
    assert class_notes(some, images) == ['no training image in classes "b", "c", "d", "e", "f" and 2 more']
    most = FolderImages(tmp_path / "all").classes[:7]
    assert class_notes(images, FolderImages(add_classes(tmp_path / "most", 1, most), classes=classes)) == [
        'no validation image in class "h": the accuracy says nothing about it'
    ]


def test_the_same_file_in_both_parts_is_noted_also_through_links(tmp_path: Path) -> None:
    train = add_classes(tmp_path / "train")
    val = add_classes(tmp_path / "val", 2)
    assert shared_notes(FolderImages(train), FolderImages(val)) == []
    (val / "cat" / "z.png").symlink_to(train / "cat" / "0.png")
    (tmp_path / "linked").symlink_to(train)
    notes = shared_notes(FolderImages(train), FolderImages(val))
    assert notes == [
        "1 of 5 validation images are also training images, such as cat/z.png: accuracy will be overestimated"
    ]
    assert "8 of 8" in shared_notes(FolderImages(train), FolderImages(tmp_path / "linked"))[0]


def test_a_path_in_both_splits_of_a_table_and_a_file_with_two_labels_are_noted(tmp_path: Path) -> None:
    add_classes(tmp_path)
    (tmp_path / "dog" / "cat.png").symlink_to(tmp_path / "cat" / "3.png")
    rows = ["cat/0.png,cat,train", "cat/3.png,cat,train", "dog/cat.png,dog,train", "cat/0.png,cat,val"]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["path,label,split", *rows]))
    notes = shared_notes(CsvImages(table, split="train"), CsvImages(table, split="val"))
    assert notes[0].startswith("1 of 1 validation images are also training images, such as cat/0.png")
    assert notes[1] == "2 training images are files with several labels, such as cat/3.png"
