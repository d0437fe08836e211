import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcnet.data.sampler import EpochSampler, EvaluationSampler
from gcnet.errors import UserError


def take_epochs(sampler: EpochSampler, epochs: int) -> list[list[tuple[int, int]]]:
    return [keys for _ in range(epochs) for keys in sampler]


def test_an_epoch_shows_each_image_at_most_once_and_leaves_out_less_than_a_batch() -> None:
    sampler = EpochSampler(23, batch_size=5, seed=3)
    for epoch in range(3):
        assert len(sampler) == 4 == sampler.steps_per_epoch
        batches = list(sampler)
        assert [len(keys) for keys in batches] == [5] * 4
        assert {found for keys in batches for found, _ in keys} == {epoch}
        indices = [index for keys in batches for _, index in keys]
        assert len(set(indices)) == 20 and set(indices) <= set(range(23))


def test_the_order_changes_with_epoch_and_seed_and_with_nothing_else() -> None:
    def order(seed: int, epoch: int, batch_size: int = 7) -> list[int]:
        return EpochSampler(97, batch_size=batch_size, seed=seed).keys(epoch)[1].tolist()

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4
    assert all(sorted(indices) == list(range(97)) for indices in orders)
    assert order(1, 1, batch_size=31) == orders[3]


@given(step=st.integers(0, 25), accumulation=st.sampled_from([1, 2]))
def test_a_sampler_started_at_any_step_continues_the_same_sequence(step: int, accumulation: int) -> None:
    def build() -> EpochSampler:
        return EpochSampler(47, batch_size=6, seed=11, accumulation=accumulation)

    whole = take_epochs(build(), 5)
    resumed = build()
    resumed.start(step)
    assert len(resumed) == (7 - step % 7) * accumulation
    assert take_epochs(resumed, 5 - step // 7) == whole[step * accumulation :]


@given(world=st.sampled_from([1, 2, 3, 4]), accumulation=st.sampled_from([1, 2]), seed=st.integers(0, 2**31))
def test_processes_and_micro_batches_share_the_same_global_batches_evenly(
    world: int, accumulation: int, seed: int
) -> None:
    def build(rank: int, of: int, parts: int) -> list[list[tuple[int, int]]]:
        return list(EpochSampler(101, batch_size=24, seed=seed, rank=rank, world=of, accumulation=parts))

    whole = build(0, 1, 1)
    shares = [build(rank, world, accumulation) for rank in range(world)]
    assert {len(keys) for share in shares for keys in share} == {24 // world // accumulation}
    for step, expected in enumerate(whole):
        parts = [share[step * accumulation + part] for share in shares for part in range(accumulation)]
        assert sorted(key for keys in parts for key in keys) == sorted(expected)


def test_batches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="at most the number of training images, 5, found 6"):
        EpochSampler(5, batch_size=6, seed=0)
    with pytest.raises(UserError, match="multiple of 2 processes x 3 micro-batches, found 8"):
        EpochSampler(50, batch_size=8, seed=0, world=2, accumulation=3)
    with pytest.raises(UserError, match="must be positive, found 0"):
        EpochSampler(50, batch_size=0, seed=0)
    with pytest.raises(UserError, match="must be positive, found 0"):
        EvaluationSampler(50, batch_size=0)


@given(length=st.integers(0, 60), batch_size=st.integers(1, 13), world=st.integers(1, 5))
def test_evaluation_sees_every_image_once_over_all_processes_and_pads_nothing(
    length: int, batch_size: int, world: int
) -> None:
    shares = [EvaluationSampler(length, batch_size=batch_size, rank=rank, world=world) for rank in range(world)]
    seen = [index for share in shares for keys in share for _, index in keys]
    assert sorted(seen) == list(range(length))
    whole = list(EvaluationSampler(length, batch_size=batch_size))
    for rank, share in enumerate(shares):
        assert list(share) == whole[rank::world]
        assert len(share) == len(list(share))


def test_groups_share_a_batch_only_where_nothing_else_is_left() -> None:
    groups = [int(index % 3 == 0) for index in range(50)]  # 17 of one group, 33 of the other
    sampler = EpochSampler(50, batch_size=4, seed=1, groups=groups)
    epochs = [list(sampler) for _ in range(3)]
    for batches in epochs:
        indices = [index for batch in batches for _, index in batch]
        assert len(batches) == 12
        assert len(set(indices)) == 48
        mixed = [batch for batch in batches if len({groups[index] for _, index in batch}) > 1]
        assert len(mixed) <= 1
    assert epochs[0] != [[(0, index) for _, index in batch] for batch in epochs[1]]
    kinds = ["".join(str(groups[batch[0][1]]) for batch in batches) for batches in epochs]
    assert len(set(kinds)) > 1  # the batches of the groups come in a random order


def test_groups_give_the_same_batches_to_any_number_of_processes() -> None:
    groups = [index % 2 for index in range(24)]

    def shared(world: int) -> list[set[int]]:
        ranks = [list(EpochSampler(24, batch_size=4, seed=5, rank=r, world=world, groups=groups)) for r in range(world)]
        return [{index for batch in batches for _, index in batch} for batches in zip(*ranks, strict=True)]

    assert shared(1) == shared(2) == shared(4)
