"""File names in arrays."""

import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcnet.data.images.file_names import FileNames

NAMES = st.lists(st.binary(max_size=9).map(os.fsdecode))


@given(names=NAMES)
def test_packed_names_are_a_sequence_like_the_list_of_them(names: list[str]) -> None:
    packed = FileNames.packed(names)
    assert list(packed) == names
    assert packed[1:-1] == names[1:-1]
    assert list(pickle.loads(pickle.dumps(packed))) == names
    if names:
        assert (packed[-1], packed[0]) == (names[-1], names[0])
    with pytest.raises(IndexError):
        packed[len(names)]


@given(names=st.lists(st.text("pPnNgG.j2a/", max_size=6)))
def test_names_are_chosen_by_suffix_in_any_letter_case(names: list[str]) -> None:
    suffixes = (".png", ".jp2", ".pn")
    expected = [index for index, name in enumerate(names) if name.lower().endswith(suffixes)]
    assert FileNames.packed(names).with_suffix(suffixes) == expected


def test_names_of_imagenet_take_less_than_40_bytes_each() -> None:
    packed = FileNames.packed(f"n01440764/n01440764_{number:05d}.JPEG" for number in range(1000))
    assert packed.text.nbytes + packed.ends.nbytes < 40 * 1000
    assert packed.ends.dtype == np.uint32
