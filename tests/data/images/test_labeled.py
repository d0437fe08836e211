"""Images held out for validation: the same share of every class, by seed and name."""

from pathlib import Path

import pytest

from gcnet.data.images.labeled import hold_out
from gcnet.data.images.sources import FileImages, ImageSource
from gcnet.errors import UserError

CLASSES = {"ant": 10, "bee": 3, "cat": 1, "dog": 100}


def source(counts: dict[str, int]) -> FileImages:
    pairs = [(f"{name}/{number}.png", label) for label, name in enumerate(counts) for number in range(counts[name])]
    return FileImages(Path("photos"), [name for name, _ in pairs], [label for _, label in pairs], tuple(counts))


def names(images: ImageSource) -> list[str]:
    return [images.name(index) for index in range(len(images))]


@pytest.mark.parametrize(("fraction", "expected"), [(0.2, (2, 1, 0, 20)), (0.01, (1, 1, 0, 1)), (0.99, (9, 2, 0, 99))])
def test_every_class_gives_its_share_but_its_last_training_image(fraction: float, expected: tuple[int, ...]) -> None:
    everything = source(CLASSES)
    train, val = hold_out(everything, fraction, seed=3)
    assert tuple(sum(val.label(i) == label for i in range(len(val))) for label in range(4)) == expected
    assert sorted(names(train) + names(val)) == sorted(names(everything))
    assert names(val) == [name for name in names(everything) if name in set(names(val))]


def test_the_seed_decides_and_more_images_move_few() -> None:
    first = set(names(hold_out(source(CLASSES), 0.2, seed=0)[1]))
    assert set(names(hold_out(source(CLASSES), 0.2, seed=0)[1])) == first
    assert set(names(hold_out(source(CLASSES), 0.2, seed=1)[1])) != first
    more = set(names(hold_out(source(CLASSES | {"dog": 105}), 0.2, seed=0)[1]))
    assert len(first & more) >= len(first) - 5


def test_classes_of_one_image_each_cannot_be_split() -> None:
    with pytest.raises(UserError, match="needs a class of two images or more to split, found 2 images in 2 classes"):
        hold_out(source({"ant": 1, "bee": 1}), 0.2, seed=0)
