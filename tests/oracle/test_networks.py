"""Converted networks of mmpretrain, mmsegmentation and mmaction2 give the outputs of the original code."""

from pathlib import Path

import pytest

from oracle.networks import NETWORKS, compare_network
from oracle.original_code import OriginalCode

pytestmark = [pytest.mark.oracle, pytest.mark.slow]


@pytest.mark.parametrize("name", NETWORKS)
def test_network_gives_the_outputs_of_the_original(name: str, original_code: OriginalCode, tmp_path: Path) -> None:
    differences = compare_network(original_code, tmp_path, name)
    print(name, differences)
    assert max(differences.values()) < 1e-4
