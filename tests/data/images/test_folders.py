"""Class folders as people have them: names of splits, files of tools, links, and files of other formats."""

from pathlib import Path

import pytest
from PIL import Image

from gcnet.data.images.folders import FolderImages, check_output_outside_images, find_splits
from gcnet.data.images.labeled import open_labeled, open_splits
from gcnet.data.images.open import open_data, open_evaluation
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError


def add(path: Path, size: tuple[int, int] = (32, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (hash(path.name) % 255, 3, 9)).save(path, format="PNG")
    return path


def add_classes(root: Path, images: int = 4, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for name in classes:
        for number in range(images):
            add(root / name / f"{number}.png")
    return root


def opened(root: Path, **given: object) -> tuple[int, int, str]:
    splits = open_data(DataSettings(data=str(root), **given))  # type: ignore[arg-type]
    return len(splits.train), len(splits.val), " ".join(splits.notes)


@pytest.mark.parametrize(
    ("train", "val"), [("train", "valid"), ("Training", "VALIDATION"), ("TRAIN", "Val"), ("train", "test")]
)
def test_splits_go_by_their_usual_names_in_any_case(train: str, val: str, tmp_path: Path) -> None:
    add_classes(tmp_path / train, 5)
    add_classes(tmp_path / val, 2)
    assert opened(tmp_path)[:2] == (10, 4)
    assert ("used for validation" in opened(tmp_path)[2]) == (val == "test")
    assert len(open_evaluation(DataSettings(data=str(tmp_path)))[0]) == 4


def test_test_images_are_used_only_without_validation_images(tmp_path: Path) -> None:
    for name, count in (("train", 5), ("val", 2), ("test", 3)):
        add_classes(tmp_path / name, count)
    assert opened(tmp_path) == (10, 4, "")
    assert list(find_splits(tmp_path)) == ["train", "val", "test"]


def test_unlabeled_test_images_and_a_class_called_train_are_no_splits(tmp_path: Path) -> None:
    add_classes(tmp_path / "kaggle" / "train")
    add(tmp_path / "kaggle" / "test" / "1.png")
    assert list(find_splits(tmp_path / "kaggle")) == ["train"]
    add_classes(tmp_path / "vehicles", classes=("bus", "train"))
    assert find_splits(tmp_path / "vehicles") == {}
    assert FolderImages(tmp_path / "vehicles").classes == ("bus", "train")


def test_two_folders_of_one_split_are_an_error(tmp_path: Path) -> None:
    for name in ("train", "val", "valid"):
        add_classes(tmp_path / name)
    with pytest.raises(UserError, match="several folders of validation images, val and valid: .* `val`"):
        opened(tmp_path)


def test_data_without_validation_images_name_the_ways_out(tmp_path: Path) -> None:
    for root in (add_classes(tmp_path / "flat"), add_classes(tmp_path / "split" / "train").parent):
        with pytest.raises(UserError, match=r"`val_fraction=0.2` .* `val` ") as caught:
            opened(root)
        assert "\n" not in str(caught.value)
        assert opened(root, val_fraction=0.25)[:2] == (6, 2)
        assert opened(root, val=str(add_classes(tmp_path / "more", 3)))[:2] == (8, 6)


def test_validation_images_beside_a_fraction_or_of_other_classes_are_refused(tmp_path: Path) -> None:
    add_classes(tmp_path / "train")
    add_classes(tmp_path / "val")
    with pytest.raises(UserError, match="has validation images; omit `val_fraction`"):
        opened(tmp_path, val_fraction=0.5)
    with pytest.raises(UserError, match='class "dogs" is not one of the 2 known classes; did you mean "dog"'):
        opened(tmp_path, val=str(add_classes(tmp_path / "other", classes=("cat", "dogs"))))


def test_the_folder_around_the_data_is_named(tmp_path: Path) -> None:
    add_classes(tmp_path / "photos" / "photos" / "train")
    with pytest.raises(UserError, match=r"holds only the folder photos, with train in it: `data=.*photos/photos`"):
        opened(tmp_path / "photos")


def test_images_without_class_folders_and_a_single_class_are_one_sentence(tmp_path: Path) -> None:
    add(tmp_path / "loose" / "a.png")
    with pytest.raises(UserError, match="holds 1 image but no class folders: put the images of each class"):
        opened(tmp_path / "loose", val_fraction=0.5)
    with pytest.raises(UserError, match='at least two classes, found one in .*, "cat"'):
        opened(add_classes(tmp_path / "one", classes=("cat",)), val_fraction=0.5)


def test_validation_images_of_imagenet_in_one_folder_are_named(tmp_path: Path) -> None:
    add_classes(tmp_path / "train")
    for number in (1, 2):
        add(tmp_path / "val" / f"ILSVRC2012_val_{number:08}.JPEG")
    with pytest.raises(UserError, match=r"val holds 2 images but no class folders, as the .* ImageNet.*: valprep\.sh "):
        opened(tmp_path)
    add(tmp_path / "val" / "other.jpg")
    with pytest.raises(UserError, match="holds 3 images but no class folders: put the images of each class"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "junk",
    ["__MACOSX/a.png", "@eaDir/cat/a.jpg", "cat/@eaDir/0.png/THUMB.jpg", ".ipynb_checkpoints/a.png", "lost+found/a.png"]
    + [
        "$RECYCLE.BIN/a.png",
        "System Volume Information/a.png",
        "#recycle/a.png",
        "#snapshot/a.png",
        "@Recycle/a.png",
        "cat/Thumbs.db",
        "desktop.ini",
    ],
)
def test_files_of_tools_are_neither_images_nor_classes_nor_mentioned(junk: str, tmp_path: Path) -> None:
    add_classes(tmp_path)
    add(tmp_path / junk)
    images = FolderImages(tmp_path)
    assert (len(images), images.classes, images.notes) == (8, ("cat", "dog"), ())


def test_unsupported_and_loose_files_are_counted_in_one_line(tmp_path: Path) -> None:
    add_classes(tmp_path)
    for name in ("a.heic", "b.HEIC", "c.jpg_large", "d"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    add(tmp_path / "loose.png")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "dog" / "gone").symlink_to(tmp_path / "nowhere")
    assert FolderImages(tmp_path).notes == (
        f"{tmp_path}: skipped 1 image outside of the class folders and 5 files of unsupported formats (2 .heic, 1 "
        ".jpg_large, 1 broken symbolic links, 1 without a suffix) and 1 other file beside the class "
        "folders (1 .txt)",
    )


def test_a_class_folder_behind_a_broken_link_is_reported(tmp_path: Path) -> None:
    add_classes(tmp_path)
    (tmp_path / "fox").symlink_to(tmp_path / "nowhere")
    assert "1 other file beside the class folders (1 broken symbolic links)" in FolderImages(tmp_path).notes[0]


@pytest.mark.parametrize(("train", "val"), [("images_train", "images_val"), ("train2017", "val2017")])
@pytest.mark.parametrize("given", [{}, {"val_fraction": 0.5}])
def test_splits_in_other_words_are_not_taken_for_classes(
    train: str, val: str, given: dict[str, float], tmp_path: Path
) -> None:
    add_classes(tmp_path / train)
    add_classes(tmp_path / val)
    with pytest.raises(UserError, match=f"same class folders in both: `data=.*{train}` `val=.*{val}`"):
        opened(tmp_path, **given)
    assert opened(tmp_path / train, val=str(tmp_path / val))[:2] == (8, 8)


def test_classes_with_words_of_splits_in_their_names_stay_classes(tmp_path: Path) -> None:
    add_classes(tmp_path, classes=("freight_train", "train_station", "test_tube"))
    assert opened(tmp_path, val_fraction=0.25)[:2] == (9, 3)


def test_a_folder_that_no_split_takes_is_named_where_validation_images_are_missing(tmp_path: Path) -> None:
    add_classes(tmp_path / "train")
    add_classes(tmp_path / "dev")
    with pytest.raises(UserError, match="`val` takes their folder or CSV; other folders: dev;"):
        opened(tmp_path)


def test_a_class_name_in_another_unicode_form_is_the_same_class(tmp_path: Path) -> None:
    add_classes(tmp_path / "train", classes=("dog", "caf\u00e9"))
    add_classes(tmp_path / "val", 2, classes=("dog", "cafe\u0301"))
    splits = open_data(DataSettings(data=str(tmp_path)))
    assert splits.classes == ("caf\u00e9", "dog")
    assert [splits.val.label(index) for index in range(4)] == [0, 0, 1, 1]
    assert "another Unicode form" in " ".join(splits.notes)
    assert [images.classes for images in open_splits(str(tmp_path)).values()] == [("cafe\u0301", "dog")] * 2


def test_a_class_with_unsupported_formats_only_lists_the_formats(tmp_path: Path) -> None:
    add_classes(tmp_path)
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / "a.heic").write_bytes(b"x")
    with pytest.raises(UserError, match=r"found none in .*bird; .* not of a supported format: 1 \.heic"):
        FolderImages(tmp_path)


def test_links_to_images_and_classes_are_followed_and_a_loop_is_one_short_sentence(tmp_path: Path) -> None:
    pool = add_classes(tmp_path / "pool")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat").symlink_to(pool / "cat")
    (tmp_path / "data" / "dog").mkdir()
    (tmp_path / "data" / "dog" / "a.png").symlink_to(pool / "dog" / "0.png")
    images = FolderImages(tmp_path / "data")
    assert [len(images), images.read(4).size] == [5, (32, 32)]
    (tmp_path / "data" / "dog" / "again").symlink_to(tmp_path / "data")
    with pytest.raises(UserError, match="dog/again/dog contains a symbolic link to a parent folder") as caught:
        FolderImages(tmp_path / "data")
    assert len(str(caught.value)) < 300


def test_classes_with_almost_the_same_name_are_kept_apart_and_reported(tmp_path: Path) -> None:
    add_classes(tmp_path / "train", classes=("Cat", "cat", "polar bear", "PolarBear", "2", "2.0", "20"))
    add_classes(tmp_path / "val", 1, classes=("Cat", "cat"))
    splits = open_data(DataSettings(data=str(tmp_path)))
    assert len(splits.classes) == 7
    expected = 'different classes: "2" and "2.0"; "Cat" and "cat"; "PolarBear" and "polar bear"'
    assert splits.notes[0].endswith(expected)
    assert open_splits(str(tmp_path))["train"].notes[0].endswith(expected)


def test_a_folder_beside_both_splits_is_reported(tmp_path: Path) -> None:
    for name in ("train", "val", "dev"):
        add_classes(tmp_path / name)
    expected = f"{tmp_path}: folders without the name of a split are not used: dev"
    assert open_data(DataSettings(data=str(tmp_path))).notes == (expected,)
    assert open_splits(str(tmp_path))["train"].notes == (expected,)


def test_splits_within_class_folders_are_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for split in ("train", "val"):
            add(tmp_path / name / split / "1.png")
    with pytest.raises(
        UserError, match="hold folders of splits, such as cat/train: put the splits first, as train/cat"
    ):
        opened(tmp_path, val_fraction=0.2)


@pytest.mark.parametrize(
    ("data", "output", "refused"),
    [
        (".", "train/run", True),
        (".", "train/cat/run", True),
        ("train", "train/run", True),
        (".", "runs/first", False),
        ("train", "run", False),
        ("nothing", "run", False),
    ],
)
def test_an_output_that_would_be_a_class_folder_is_refused(
    data: str, output: str, refused: bool, tmp_path: Path
) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "val" / "cat").mkdir(parents=True)
    if not refused:
        check_output_outside_images(tmp_path / data, tmp_path / output)
        return
    with pytest.raises(UserError, match="`output` must not be in a folder of images"):
        check_output_outside_images(tmp_path / data, tmp_path / output)


def test_splits_in_the_archive_of_imagenet_are_named(tmp_path: Path) -> None:
    for name in ("Annotations/CLS-LOC/train/n01/1.xml", "Annotations/CLS-LOC/val/1.xml", "ImageSets/CLS-LOC/val.txt"):
        add(tmp_path / "ILSVRC" / name)
    for name in ("train/n01/1.JPEG", "train/n02/2.JPEG", "val/1.JPEG", "test/1.JPEG"):
        add(tmp_path / "ILSVRC/Data/CLS-LOC" / name)
    for data in (tmp_path, tmp_path / "ILSVRC"):
        with pytest.raises(UserError, match=r"folders of splits in .*: `data=.*ILSVRC/Data/CLS-LOC`"):
            open_splits(str(data))


def test_images_of_the_kaggle_archive_are_listed_by_a_csv(tmp_path: Path) -> None:
    for name in ("train/n01/1.JPEG", "train/n02/2.JPEG", "val/ILSVRC2012_val_00000001.JPEG"):
        add(tmp_path / name)
    (tmp_path / "val.csv").write_text("path,label\nILSVRC2012_val_00000001.JPEG,n02\n")
    settings = DataSettings(data=str(tmp_path), val=f"{tmp_path}/val.csv", images=f"{tmp_path}/val")
    val = open_labeled(settings, 0)[1]
    assert [(val.name(0), val.classes[val.label(0)])] == [("ILSVRC2012_val_00000001.JPEG", "n02")]


def test_folders_of_shards_are_given_as_a_pattern(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "0.tar").touch()
    with pytest.raises(UserError, match=r'train holds shards: give them as `data=".*/\{train,val\}/\*.tar"`'):
        open_splits(str(tmp_path))
    (tmp_path / "val").rename(tmp_path / "test")
    with pytest.raises(UserError, match=r'train holds shards: give them as `data=".*/\{test,train\}/\*.tar"`'):
        open_splits(str(tmp_path))


def test_a_folder_of_compressed_shards_says_so(tmp_path: Path) -> None:
    (tmp_path / "train-0.tar.gz").touch()
    with pytest.raises(UserError, match="holds compressed tar files, such as train-0.tar.gz: decompress shards"):
        open_splits(str(tmp_path))
