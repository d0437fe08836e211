import random

import numpy as np
import pytest
import torch

from gcnet.data.seeding import mix_seed, preserved_random_state, seed_everything_for_sample


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), torch.rand(()).item()


def test_neighbouring_numbers_give_unrelated_seeds() -> None:
    seeds = {mix_seed(seed, epoch, index) for seed in range(7) for epoch in range(7) for index in range(211)}
    assert len(seeds) == 7 * 7 * 211
    assert all(0 <= seed < 2**63 for seed in seeds)
    bits = np.array([[seed >> bit & 1 for bit in range(63)] for seed in seeds])
    assert abs(bits.mean(0) - 0.5).max() < 0.03  # six standard deviations
    assert mix_seed(0, 1) != mix_seed(1, 0) != mix_seed(1, 0, 0)


def test_a_seed_decides_all_three_generators() -> None:
    seed_everything_for_sample(mix_seed(3))
    first = draw()
    seed_everything_for_sample(mix_seed(4))
    second = draw()
    seed_everything_for_sample(mix_seed(3))
    assert draw() == first
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_random_states_of_the_program_are_restored_also_after_an_error() -> None:
    seed_everything_for_sample(11)
    torch.randn(3), np.random.standard_normal(), random.gauss(0, 1)  # leaves half of a pair in each
    with preserved_random_state():
        expected = draw(), torch.randn(3).tolist(), np.random.standard_normal(), random.gauss(0, 1)
    with pytest.raises(KeyError), preserved_random_state():
        seed_everything_for_sample(5)
        draw()
        raise KeyError
    assert (draw(), torch.randn(3).tolist(), np.random.standard_normal(), random.gauss(0, 1)) == expected
