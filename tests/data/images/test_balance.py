"""Balanced classes: weights of the loss and draws of the sampler, against values computed by hand."""

from collections import Counter
from pathlib import Path

import pytest

from gcnet.data.images.balance import balanced_weights, class_notes, describe_counts
from gcnet.data.sampling import EpochSampler

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
    for number in range(3):
        keys = EpochSampler(17, batch_size=4, seed=5, labels=LABELS).keys(number)
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


def test_imbalance_is_noted_above_ten_to_one_unless_it_is_made_up_for(tmp_path: Path) -> None:
    from data.images.test_folders import add_classes
    from gcnet.data.images.folders import FolderImages

    add_classes(tmp_path, 11, ("dog",))
    add_classes(tmp_path, 1, ("cat",))
    images = FolderImages(tmp_path)
    assert '11 training images of "dog", 1 of "cat"; --class-weights balanced or' in class_notes(images)[0]
    assert class_notes(images, balanced=True) == []
    (tmp_path / "dog" / "10.png").unlink()
    assert class_notes(FolderImages(tmp_path)) == []
    assert (describe_counts([3, 1]), describe_counts([2, 2])) == ("min 1, max 3 per class", "2 per class")
