from pathlib import Path

import pytest
from PIL import Image

from gcnet.data.decode import ImageError
from gcnet.data.images.open import open_data
from gcnet.data.images.sources import ImageSource
from gcnet.data.images.table import CsvImages, read_splits
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError


def write(folder: Path, text: str) -> Path:
    for name in ("a.png", "b.png", "c d.png"):
        Image.new("RGB", (3, 2)).save(folder / name)
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_become_images_with_sorted_labels_as_classes(tmp_path: Path) -> None:
    images = CsvImages(write(tmp_path, "path,label\na.png,dog\n./c d.png, cat\nb.png,dog\n"))
    assert isinstance(images, ImageSource)
    assert images.classes == ("cat", "dog")
    assert [(images.name(i), images.label(i)) for i in range(3)] == [("a.png", 1), ("c d.png", 0), ("b.png", 1)]
    assert images.read(1).size == (3, 2)


def test_other_columns_order_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    images = CsvImages(write(tmp_path, "\ufeffwidth,label,path\n3,dog,a.png\n"))
    assert (images.classes, images.name(0)) == (("dog",), "a.png")


def test_a_split_column_picks_the_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label,split\na.png,dog,train\nb.png,cat,val\nc d.png,dog,val\n")
    assert read_splits(path) == ("train", "val")
    assert [CsvImages(path, split="val").name(i) for i in range(2)] == ["b.png", "c d.png"]
    assert len(CsvImages(path)) == 3
    with pytest.raises(UserError, match='no row has the split "test", found train, val'):
        CsvImages(path, split="test")


def test_a_missing_split_column_is_refused_only_where_a_split_is_wanted(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\na.png,dog\n")
    assert read_splits(path) == ()
    with pytest.raises(UserError, match='a column "split" with train and val'):
        CsvImages(path, split="train")


def test_images_may_lie_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (write(tmp_path, "path,label\na.png,dog\n")).rename(tmp_path / "lists" / "list.csv")
    assert CsvImages(tmp_path / "lists" / "list.csv", root=tmp_path).read(0).size == (3, 2)


@pytest.mark.parametrize("outside", ["../a.png", "sub/../../a.png", "/etc/passwd"])
def test_a_path_that_leaves_the_folder_is_refused_with_its_line(outside: str, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    write(tmp_path, "")
    path = write(inner, f"path,label\na.png,dog\n{outside},cat\n")
    with pytest.raises(UserError, match="line 3: .* lies outside of the image folder .*; `images` takes"):
        CsvImages(path)


REFUSED = {
    "no_header": ("a.png,dog\n", "must name the columns path, label .* found a.png, dog"),
    "empty": ("", "must name the columns path, label .* found an empty file"),
    "header_only": ("path,label\n", "expected a row per image"),
    "empty_label": ("path,label\na.png,dog\nb.png,\n", "line 3: label is empty"),
    "short_row": ("path,label\nb.png\n", "line 2: label is empty"),
    "twice": (
        "path,label\na.png,dog\nb.png,dog\n./a.png,cat\n",
        'line 4: .* already listed as "dog" instead of "cat", see .* line 2',
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_malformed_csv_is_an_error_of_one_sentence(case: str, tmp_path: Path) -> None:
    text, sentence = REFUSED[case]
    with pytest.raises(UserError, match=sentence):
        CsvImages(write(tmp_path, text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(b"path,label\n\xff\xfe\x00,dog\n")
    with pytest.raises(UserError, match="cannot be read as a CSV in UTF-8"):
        CsvImages(path)


def test_a_label_that_is_not_known_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\na.png,dgo\n")
    with pytest.raises(UserError, match='class "dgo" is not one of the 2 known classes; did you mean "dog"'):
        CsvImages(path, classes=("cat", "dog"))


def test_a_listed_file_that_is_missing_is_an_image_error(tmp_path: Path) -> None:
    images = CsvImages(write(tmp_path, "path,label\na.png,dog\nz.png,dog\n"))
    with pytest.raises(ImageError, match="no such file"):
        images.read(1)


def test_a_csv_without_existing_images_suggests_the_image_folder_option(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "list.csv"
    path.write_text(write(tmp_path, "path,label\na.png,dog\nb.png,cat\n").read_text())
    with pytest.raises(UserError, match="none of its 2 images is in the folder .*lists, such as a.png; `images`"):
        CsvImages(path)
    assert len(CsvImages(path, root=tmp_path)) == 2


def test_a_column_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='each column once, found "label" 2 times'):
        CsvImages(write(tmp_path, "path,label,label\na.png,dog,cat\n"))


def test_unknown_splits_are_named_where_validation_images_are_missing(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label,split\na.png,dog,train\nb.png,cat,train\nc d.png,dog,holdout\n")
    with pytest.raises(UserError, match='no validation images.*rows of unknown splits are not used: 1 "holdout"'):
        open_data(DataSettings(data=str(path)))


def test_images_may_lie_in_the_folder_that_is_named_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    table = tmp_path / "lists" / "list.csv"
    write(tmp_path, "").unlink()
    rows = [f"{tmp_path}/a.png,dog", "../b.png,dog", "c d.png,cat"]
    table.write_text("path,label\n" + "\n".join(rows))
    images = CsvImages(table, root=tmp_path)
    assert [images.name(index) for index in range(3)] == ["a.png", "b.png", "c d.png"]
    assert images.read(1).size == (3, 2)
    with pytest.raises(UserError, match="line 2: .* lies outside of the image folder .*`images`"):
        CsvImages(table)
    with pytest.raises(UserError, match="`images` takes a folder, but there is none at"):
        CsvImages(table, root=tmp_path / "nowhere")


def test_links_to_images_elsewhere_are_read(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    write(tmp_path / "pool", "")
    (tmp_path / "linked.png").symlink_to(tmp_path / "pool" / "a.png")
    (tmp_path / "list.csv").write_text("path,label\nlinked.png,dog\n")
    assert CsvImages(tmp_path / "list.csv").read(0).size == (3, 2)


def test_backslashes_are_read_as_slashes_and_reported(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", "")
    (tmp_path / "list.csv").write_text("path,label\nsub\\a.png,dog\nsub\\c d.png,cat\n")
    images = CsvImages(tmp_path / "list.csv")
    assert [images.name(index) for index in range(2)] == ["sub/a.png", "sub/c d.png"]
    assert images.notes == (f'{tmp_path}/list.csv: 2 image paths were repaired, such as "sub\\a.png" to "sub/a.png"',)


@pytest.mark.parametrize(
    "start", ["C:\\photos\\", "https://example.org/photos/", "gs://bucket/", "/home/someone/photos/"]
)
def test_paths_of_other_machines_are_repaired(start: str, tmp_path: Path) -> None:
    images = CsvImages(write(tmp_path, f"path,label\n{start}a.png,dog\n{start}c%20d.png,cat\n"))
    assert [images.name(index) for index in range(2)] == ["a.png", "c d.png"]
    assert "2 image paths were repaired" in images.notes[0]


def test_a_missing_image_among_paths_of_another_machine_is_an_image_error(tmp_path: Path) -> None:
    images = CsvImages(write(tmp_path, "path,label\n/photos/a.png,dog\n/photos/z.png,cat\n../../y.png,cat\n"))
    assert images.read(0).size == (3, 2)
    for index in (1, 2):
        with pytest.raises(ImageError, match="no such file"):
            images.read(index)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_columns_of_other_delimiters_in_capitals_and_below_blank_lines_are_read(delimiter: str, tmp_path: Path) -> None:
    text = "\n\nPath,Label,SPLIT\na.png,dog,train\nb.png,,val\n".replace(",", delimiter)
    with pytest.raises(UserError, match="line 5: label is empty"):
        CsvImages(write(tmp_path, text))
    images = CsvImages(write(tmp_path, text.replace(delimiter * 2, f"{delimiter}cat{delimiter}")), split="val")
    assert (images.classes, images.name(0)) == (("cat",), "b.png")


def test_a_row_again_is_skipped_and_counted(tmp_path: Path) -> None:
    images = CsvImages(write(tmp_path, "path,label\na.png,dog\nb.png,cat\n./a.png,dog\n"))
    assert [(images.name(i), images.label(i)) for i in range(len(images))] == [("a.png", 1), ("b.png", 0)]
    assert images.notes == (f"{tmp_path}/list.csv: 1 of 3 rows are repeated and skipped",)


def test_splits_go_by_their_usual_names_and_others_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label,split\na.png,dog,TRAIN\nb.png,cat,valid\nc d.png,dog,extra\n")
    assert read_splits(path) == ("train", "val")
    images = CsvImages(path, split="val")
    assert (images.name(0), len(images.notes)) == ("b.png", 1)
    assert '1 "extra"' in images.notes[0]
    path.write_text("path,label,split\na.png,dog,fold1\n")
    with pytest.raises(UserError, match='the column "split" must be train, val or test, found fold1'):
        read_splits(path)


def test_a_file_name_that_is_not_utf_8_is_found(tmp_path: Path) -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / name)
    (tmp_path / "list.csv").write_bytes(b"path,label\ncaf\xe9.png,dog\n")
    assert CsvImages(tmp_path / "list.csv").read(0).size == (3, 2)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n", "is a Git LFS pointer"),
        ("<!DOCTYPE html><html></html>", "is an HTML page"),
        ("", "found an empty file"),
    ],
)
def test_files_of_other_types_given_as_csv_are_named(content: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        read_splits(write(tmp_path, content))
