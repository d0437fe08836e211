"""Images that are in training and validation, or under two labels."""

from pathlib import Path

from data.images.test_folders import add_classes
from gcnet.data.images.check import shared_notes
from gcnet.data.images.folders import FolderImages
from gcnet.data.images.table import CsvImages


def test_the_same_file_in_both_parts_is_noted_also_through_links(tmp_path: Path) -> None:
    train = add_classes(tmp_path / "train")
    val = add_classes(tmp_path / "val", 2)
    assert shared_notes(FolderImages(train), FolderImages(val)) == []
    (val / "cat" / "z.png").symlink_to(train / "cat" / "0.png")
    (tmp_path / "linked").symlink_to(train)
    notes = shared_notes(FolderImages(train), FolderImages(val))
    assert notes == [
        "1 of 5 validation images are training images too, such as cat/z.png: the accuracy will be too high"
    ]
    assert "8 of 8" in shared_notes(FolderImages(train), FolderImages(tmp_path / "linked"))[0]


def test_a_path_in_both_splits_of_a_table_and_a_file_with_two_labels_are_noted(tmp_path: Path) -> None:
    add_classes(tmp_path)
    (tmp_path / "dog" / "cat.png").symlink_to(tmp_path / "cat" / "3.png")
    rows = ["cat/0.png,cat,train", "cat/3.png,cat,train", "dog/cat.png,dog,train", "cat/0.png,cat,val"]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["path,label,split", *rows]))
    notes = shared_notes(CsvImages(table, split="train"), CsvImages(table, split="val"))
    assert notes[0].startswith("1 of 1 validation images are training images too, such as cat/0.png")
    assert notes[1] == "2 training images are the same files under different labels, such as cat/3.png"
