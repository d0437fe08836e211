"""Problems of labeled images, against data made with a known number of each kind."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from gcnet.data.images.check import check_images
from gcnet.data.images.labeled import open_splits


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


def test_clean_data_have_no_problems_and_are_described(tmp_path: Path) -> None:
    report = check_images(open_splits(str(write_photos(tmp_path))), workers=2)
    assert report.problems == ()
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
    found = {(problem.kind, problem.place): problem.found for problem in report.problems}
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
    assert Counter(problem.kind for problem in check_images(splits).problems) == {"class without images": 1}
