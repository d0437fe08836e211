"""Ids of annotation files as integers: the same entry by whatever form a reference has."""

import pytest

from gcnet.data.coco.values import Ids


@pytest.mark.parametrize("reference", [2, 2.0, "2", "2.0", "02"])
@pytest.mark.parametrize("entry", [2, 2.0, "2", "2.0", "02"])
def test_numbers_and_texts_of_them_mean_the_same_entry(entry: object, reference: object) -> None:
    assert Ids(["a", entry])(reference) == 2


def test_a_reference_that_fits_two_texts_means_neither() -> None:
    ids = Ids(["02", "2.0", "3"])
    assert (ids("02"), ids("2.0"), ids(2), ids(3)) == (2, 4, None, 3)
