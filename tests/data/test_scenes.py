"""Generated scenes: deterministic, labelled by what the picture shows, and out of reach of the local features."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gcnet.data.scenes import CATEGORIES, MARGIN, OBJECTS, Scenes
from gcnet.errors import UserError
from gcnet.models.backbones.scenes_resnet import RECEPTIVE_FIELD, ScenesResNet


def test_the_same_seed_split_and_index_give_the_same_picture_whatever_was_read_before() -> None:
    first, second = Scenes(50, seed=3), Scenes(50, seed=3)
    for index in range(20):
        second.read(index)
    np.random.seed(1)
    assert np.array_equal(np.asarray(first.read(17)), np.asarray(second.read(17)))
    others = (Scenes(50, seed=4), Scenes(50, seed=3, split="val"), Scenes(50, seed=3, context=False))
    assert all(not np.array_equal(np.asarray(first.read(17)), np.asarray(other.read(17))) for other in others)


@pytest.mark.parametrize("context", [True, False], ids=["context", "control"])
@pytest.mark.parametrize("size", [32, 37, 64, 97, 431])
def test_the_label_counts_the_shapes_that_the_picture_shows_brighter_than_the_patch(size: int, context: bool) -> None:
    """Judged by the pixels alone: the mean of each mask, and of the patch inside its frame of two pixels."""
    scenes = Scenes(12 if size > 100 else 36, size=size, distance=size // 2, context=context, seed=5)
    for index in range(len(scenes)):
        picture = np.asarray(scenes.read(index), dtype=np.float64).mean(axis=2) / 255
        patch, *shapes = scenes.masks(index)
        rows, columns = np.flatnonzero(patch.any(axis=1)), np.flatnonzero(patch.any(axis=0))
        reference = picture[rows[2] : rows[-2], columns[2] : columns[-2]].mean()
        differences = np.array([picture[shape].mean() for shape in shapes]) - reference
        assert (differences > 0).sum() == scenes.label(index)
        assert abs(differences).min() > MARGIN - 2 / 255  # the rounding to 8 bits of both


def test_the_drawn_brightness_is_the_stated_one() -> None:
    scenes = Scenes(60, seed=7)
    for index in range(len(scenes)):
        picture = np.asarray(scenes.read(index), dtype=np.float64).mean(axis=2) / 255
        for thing, mask in list(zip(scenes.instances(index), scenes.masks(index), strict=True))[1:]:
            assert picture[mask].mean() == pytest.approx(thing.brightness, abs=1 / 255)


@pytest.mark.parametrize(("size", "distance"), [(64, 32), (64, 11), (41, 20), (128, 64)])
def test_no_shape_comes_nearer_to_the_patch_than_the_distance_nor_overlaps_another(size: int, distance: int) -> None:
    scenes = Scenes(60, size=size, distance=distance)
    for index in range(len(scenes)):
        patch, *shapes = scenes.instances(index)
        assert len(shapes) == OBJECTS
        gaps = [max(abs(shape.top - patch.top), abs(shape.left - patch.left)) - patch.side for shape in shapes]
        assert distance <= min(gaps) and max(gaps) <= distance + 0.375 * size + 1
        covered = np.zeros((size, size), dtype=int)
        for thing in (patch, *shapes):
            covered[thing.top : thing.top + thing.side, thing.left : thing.left + thing.side] += 1
        assert covered.max() == 1
        assert covered.sum() == (OBJECTS + 1) * patch.side**2


def test_the_local_features_of_the_scenes_network_see_no_further_than_the_distance() -> None:
    """The gradient of one feature with respect to the picture shows what it sees."""
    network = ScenesResNet().eval()
    picture = torch.randn(1, 3, 96, 96, requires_grad=True)
    network.layer1(network.stem(picture))[0, :, 12, 12].sum().backward()
    assert picture.grad is not None
    seen = picture.grad.abs().sum(dim=(0, 1)) > 0
    rows, columns = seen.any(dim=1).nonzero(), seen.any(dim=0).nonzero()
    for axis in (rows, columns):
        assert int(axis.max() - axis.min()) + 1 == RECEPTIVE_FIELD
    assert RECEPTIVE_FIELD <= 32


def test_the_control_setting_has_one_reference_brightness() -> None:
    control, context = Scenes(30, context=False), Scenes(30)
    assert len({control.instances(index)[0].brightness for index in range(30)}) == 1
    assert len({context.instances(index)[0].brightness for index in range(30)}) == 30


def test_classes_are_equally_frequent() -> None:
    labels = [Scenes(60).label(index) for index in range(60)]
    assert np.bincount(labels).tolist() == [10] * 6


def test_coco_annotations_describe_the_masks() -> None:
    scenes = Scenes(7)
    coco = scenes.coco_annotations()
    assert [image["id"] for image in coco["images"]] == list(range(1, 8))
    assert {category["name"] for category in coco["categories"]} == set(CATEGORIES)
    assert [one["id"] for one in coco["annotations"]] == list(range(1, 7 * (OBJECTS + 1) + 1))
    masks = np.concatenate([scenes.masks(index) for index in range(7)])
    for annotation, mask in zip(coco["annotations"], masks, strict=True):
        counts = annotation["segmentation"]["counts"]
        values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        assert np.array_equal(values.reshape(64, 64).T, mask)
        left, top, width, height = annotation["bbox"]
        assert annotation["area"] == mask.sum() == mask[top : top + height, left : left + width].sum()
        assert mask[:, left].any() and mask[top].any() and mask[:, left + width - 1].any()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"split": "vall"}, 'unknown split "vall"; did you mean "val"'),
        ({"size": 31}, "at least 32 pixels wide, found 31"),
        ({"distance": 60}, "must be 0 to 42, found 60"),
        ({"distance": -1}, "found -1"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_impossible_scenes_are_errors_of_one_sentence(arguments: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Scenes(3, **arguments)


def test_the_scenes_network_gives_logits_for_any_number_of_classes() -> None:
    network: nn.Module = ScenesResNet(7)
    assert network(torch.randn(2, 3, 37, 41)).shape == (2, 7)


def test_a_written_set_is_the_set(tmp_path: Path) -> None:
    scenes = Scenes(3, split="val", seed=5)
    scenes.write_coco(tmp_path / "val", tmp_path / "annotations" / "instances_val.json")
    content = json.loads((tmp_path / "annotations" / "instances_val.json").read_text())
    assert content == scenes.coco_annotations()
    assert sorted(path.name for path in (tmp_path / "val").iterdir()) == [one["file_name"] for one in content["images"]]
    for index, image in enumerate(content["images"]):
        with Image.open(tmp_path / "val" / image["file_name"]) as written:
            assert np.array_equal(np.asarray(written), np.asarray(scenes.read(index)))
