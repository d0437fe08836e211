"""Means, spreads and intervals against tables and hand-computed cases."""

import math

import pytest

from gcnet.analysis.statistics import (
    paired_difference,
    spread,
    student_probability,
    student_quantile,
    wilson_interval,
)

# Two-sided 95 % points of Student's distribution, from any printed table.
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize("degrees", TABLE)
def test_student_quantiles_are_those_of_the_printed_table(degrees: int) -> None:
    assert student_quantile(0.975, degrees) == pytest.approx(TABLE[degrees], abs=6e-4)


@pytest.mark.parametrize("degrees", [1, 2, 3, 6, 7])
def test_student_probability_is_the_integral_of_the_density(degrees: int) -> None:
    scale = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
    steps, upper = 20_000, 1.7
    density = [scale * (1 + (upper * i / steps) ** 2 / degrees) ** (-(degrees + 1) / 2) for i in range(steps + 1)]
    integral = (sum(density) - (density[0] + density[-1]) / 2) * upper / steps
    assert student_probability(upper, degrees) == pytest.approx(0.5 + integral, abs=1e-8)


def test_the_spread_of_three_runs_is_their_standard_deviation() -> None:
    result = spread([1.0, 2.0, 6.0])
    assert (result.mean, result.count) == (3.0, 3)
    assert result.deviation == pytest.approx(math.sqrt(((-2) ** 2 + (-1) ** 2 + 3**2) / 2))


def test_one_run_has_no_spread_and_no_interval() -> None:
    assert spread([0.5]).deviation is None
    assert paired_difference([0.7], [0.5]).half_width is None
    assert paired_difference([0.7], [0.5]).is_seen is None


def test_the_paired_interval_is_the_textbook_one() -> None:
    result = paired_difference([0.75, 0.82, 0.71], [0.70, 0.80, 0.70])
    differences = [0.05, 0.02, 0.01]
    average = sum(differences) / 3
    deviation = math.sqrt(sum((value - average) ** 2 for value in differences) / 2)
    assert result.difference == pytest.approx(average)
    assert result.half_width == pytest.approx(4.3027 * deviation / math.sqrt(3), rel=1e-4)
    assert result.is_seen is False


def test_a_difference_larger_than_its_half_width_is_seen() -> None:
    assert paired_difference([0.9, 0.91, 0.92], [0.5, 0.5, 0.51]).is_seen is True


def test_seeds_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        paired_difference([0.5, 0.6], [0.5])


def test_wilson_interval_solves_its_equation() -> None:
    correct, total, z = 47, 53, 1.959963984540054
    for bound in wilson_interval(correct, total):
        deviation = z * math.sqrt(bound * (1 - bound) / total)
        assert abs(correct / total - bound) == pytest.approx(deviation, rel=1e-9)


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 17), (13, 17), (1846, 2000), (2000, 2000)])
def test_the_interval_holds_the_shares_that_a_score_test_at_five_percent_does_not_refuse(
    successes: int, trials: int
) -> None:
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            deviation = abs(successes / trials - bound) / math.sqrt(bound * (1 - bound) / trials)
            two_sided = math.erfc(deviation / math.sqrt(2))
            assert two_sided == pytest.approx(0.05, rel=1e-6)
