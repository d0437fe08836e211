from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcnet.data.decode import ImageError
from gcnet.data.images.folders import FolderImages
from gcnet.data.images.listing import list_images
from gcnet.data.images.sources import CachedImages, ImageSource, SubsetImages, limit_images
from gcnet.errors import UserError


def make_image(path: Path, value: int = 0, size: tuple[int, int] = (5, 7)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 2, 3)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for value, name in enumerate(("cat/b.png", "cat/a.png", "cat/deep/c.png", "ant/10.jpg", "ant/9.JPG", "dog/x.png")):
        make_image(tmp_path / name, value)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "cat" / "._a.png").write_text("a resource fork")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "README.md").write_text("no class")
    return tmp_path


def test_class_folders_become_sorted_classes_and_files_come_in_a_fixed_order(folder: Path) -> None:
    images = FolderImages(folder)
    assert isinstance(images, ImageSource)
    assert images.classes == ("ant", "cat", "dog")
    assert [images.name(i) for i in range(len(images))] == [
        "ant/10.jpg",
        "ant/9.JPG",
        "cat/a.png",
        "cat/b.png",
        "cat/deep/c.png",
        "dog/x.png",
    ]
    assert [images.label(i) for i in range(6)] == [0, 0, 1, 1, 1, 2]


def test_name_label_and_image_of_an_index_belong_together(folder: Path) -> None:
    images = FolderImages(folder)
    assert (images.name(3), images.label(3), images.read(3).size) == ("cat/b.png", 1, (5, 7))
    assert images.read(3).getpixel((0, 0)) == (0, 2, 3)


def test_known_classes_set_the_labels_and_may_have_no_images_here(folder: Path) -> None:
    images = FolderImages(folder, classes=("dog", "bee", "cat", "ant"))
    assert images.classes == ("dog", "bee", "cat", "ant")
    assert [images.label(i) for i in range(6)] == [3, 3, 2, 2, 2, 0]


def test_a_class_that_is_not_known_is_named_with_the_nearest_known_one(folder: Path) -> None:
    with pytest.raises(UserError, match='class "cat" is not one of the 3 known classes; did you mean "cats"'):
        FolderImages(folder, classes=("ant", "cats", "dog"))


def test_a_missing_folder_prints_the_path_tried_and_the_expected_tree(tmp_path: Path) -> None:
    make_image(tmp_path / "vall/cat/a.png")
    with pytest.raises(UserError, match="CLASS") as caught:
        FolderImages(tmp_path / "val")
    assert f'"{tmp_path}/val"; did you mean "vall"' in str(caught.value)
    assert f"{tmp_path}/train/CLASS/*.jpg" in str(caught.value)


def test_folders_without_classes_or_images_are_refused(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    with pytest.raises(UserError, match="no class folders"):
        FolderImages(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match="every class folder needs images, found none in .*cat"):
        FolderImages(tmp_path)
    with pytest.raises(UserError, match="no images in the class folders"):
        FolderImages(tmp_path, classes=("cat",))


def test_a_damaged_file_is_an_image_error_at_its_own_index_only(folder: Path) -> None:
    (folder / "cat" / "a.png").write_bytes(b"")
    images = FolderImages(folder)
    with pytest.raises(ImageError, match="empty"):
        images.read(2)
    assert images.read(3).size == (5, 7)


def test_image_files_are_found_below_a_folder(folder: Path) -> None:
    assert list_images(folder).files == [
        "ant/10.jpg",
        "ant/9.JPG",
        "cat/a.png",
        "cat/b.png",
        "cat/deep/c.png",
        "dog/x.png",
    ]


def test_a_limit_takes_images_evenly_so_that_all_classes_stay(folder: Path) -> None:
    images = FolderImages(folder)
    assert [limit_images(images, 3).name(i) for i in range(3)] == ["ant/10.jpg", "cat/a.png", "cat/deep/c.png"]
    assert limit_images(images, None) is images
    assert limit_images(images, 6) is images
    assert len(limit_images(images, 7)) == 6


def test_a_subset_keeps_name_label_and_image_together(folder: Path) -> None:
    subset = SubsetImages(FolderImages(folder), [5, 2])
    assert [(subset.name(i), subset.label(i), subset.read(i).getpixel((0, 0))[0]) for i in (0, 1)] == [
        ("dog/x.png", 2, 5),
        ("cat/a.png", 1, 1),
    ]


class Counted(ImageSource):
    """Images of noise that count how often they are read."""

    classes = ("one",)
    notes = ()

    def __init__(self, *sizes: tuple[int, int]) -> None:
        self.sizes, self.reads = sizes, [0] * len(sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, index: int) -> str:
        return str(index)

    def label(self, index: int) -> int:
        return 0 * index

    def file(self, index: int) -> None:
        """None."""

    def read(self, index: int) -> Image.Image:
        self.reads[index] += 1
        width, height = self.sizes[index]
        return Image.fromarray(np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_small_images_are_cached_bit_for_bit() -> None:
    source = Counted((31, 17), (1, 1), (97, 96))
    cached = CachedImages(source)
    for index in (0, 1, 2, 0, 1, 2):
        assert np.array_equal(np.asarray(cached.read(index)), np.asarray(Counted(*source.sizes).read(index)))
    assert source.reads == [1, 1, 2]


def test_changing_a_returned_image_does_not_change_the_cache() -> None:
    cached = CachedImages(Counted((5, 3)))
    cached.read(0).paste((0, 0, 0), (0, 0, 5, 3))
    cached.read(0).paste((0, 0, 0), (0, 0, 5, 3))
    assert np.asarray(cached.read(0)).any()


def test_the_cache_does_not_exceed_its_budget() -> None:
    source = Counted((5, 3), (5, 3), (5, 3))
    cached = CachedImages(source, budget=100)
    for index in (0, 1, 2, 0, 1, 2):
        cached.read(index)
    assert source.reads == [1, 1, 2] or source.reads == [1, 2, 2]
    assert sum(source.reads) == 6 - 100 // (3 * 15)
