"""Average distances between positions, judged by the paper's double loop and by maps whose answer is known."""

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import gcnet
from gcnet.analysis.distances import estimate_jensen_shannon
from gcnet.errors import UserError
from tolerances import assert_equal_within

AVERAGES = (gcnet.analysis.average_cosine_distance, gcnet.analysis.average_jensen_shannon)


def by_loop(vectors: Tensor, distance) -> float:
    """The paper's `1 / P^2 sum_i sum_j dist(v_i, v_j)`."""
    rows = vectors.double().tolist()
    return sum(distance(one, other) for one in rows for other in rows) / len(rows) ** 2


def cosine_distance(one: list[float], other: list[float]) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    norms = math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
    return (1 - product / norms) / 2


def jensen_shannon(one: list[float], other: list[float]) -> float:
    def term(a: float, b: float) -> float:
        return a * math.log(2 * a / (a + b)) if a > 0 else 0.0

    return 0.5 * sum(term(a, b) + term(b, a) for a, b in zip(one, other, strict=True))


def some_attention(*shape: int, sharpness: float = 2.0) -> Tensor:
    return torch.softmax(sharpness * torch.randn(*shape, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("shape", [(1, 5), (2, 3), (17, 7), (31, 1)])
def test_the_cosine_distance_is_that_of_the_double_loop(shape: tuple[int, int]) -> None:
    vectors = torch.randn(2, 3, *shape) + 0.3
    found = gcnet.analysis.average_cosine_distance(vectors)
    expected = torch.tensor([[by_loop(one, cosine_distance) for one in row] for row in vectors], dtype=torch.float64)
    assert_equal_within(found, expected, torch.float64)


@pytest.mark.parametrize("shape", [(1, 5), (2, 3), (17, 11), (13, 1)])
@pytest.mark.parametrize("entries", [1, 300, 1 << 22])
def test_the_divergence_is_that_of_the_double_loop_however_it_is_cut(
    shape: tuple[int, int], entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gcnet.analysis.distances._ENTRIES", entries)
    attention = some_attention(2, 3, *shape)
    found = gcnet.analysis.average_jensen_shannon(attention)
    expected = torch.tensor([[by_loop(one, jensen_shannon) for one in row] for row in attention], dtype=torch.float64)
    assert_equal_within(found, expected, torch.float64)


def test_rows_with_zero_weights_have_finite_divergences() -> None:
    attention = some_attention(7, 5)
    attention[attention < 0.1] = 0
    attention /= attention.sum(-1, keepdim=True)
    assert gcnet.analysis.average_jensen_shannon(attention).item() == pytest.approx(by_loop(attention, jensen_shannon))


@pytest.mark.parametrize("average", AVERAGES)
def test_a_map_that_is_the_same_for_all_queries_has_distance_zero(average) -> None:
    row = some_attention(1, 11).float()
    assert average(row.expand(13, 11)).item() == pytest.approx(0, abs=1e-15)
    assert average(row).item() == pytest.approx(0, abs=1e-15)


def test_queries_with_one_distinct_position_each_have_the_maximum_distance() -> None:
    positions = 7
    attention = torch.eye(positions)
    pairs = (positions - 1) / positions  # the share with i != j
    assert gcnet.analysis.average_cosine_distance(attention).item() == pytest.approx(pairs / 2)
    assert gcnet.analysis.average_jensen_shannon(attention).item() == pytest.approx(pairs * math.log(2))


def test_opposite_vectors_are_at_distance_one() -> None:
    vectors = torch.tensor([[3.0, 4.0], [-3.0, -4.0]])
    assert gcnet.analysis.average_cosine_distance(vectors).item() == pytest.approx(0.5)  # half of the pairs are i = j


def test_zero_vectors_are_equal_to_each_other_and_at_right_angles_to_others() -> None:
    vectors = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0]])
    assert gcnet.analysis.average_cosine_distance(vectors).item() == pytest.approx(4 / 9 / 2)
    assert gcnet.analysis.average_cosine_distance(torch.zeros(5, 3)).item() == 0


@pytest.mark.parametrize("factor", [1e-300, 1e-30, 1e30, 1e300])
def test_the_cosine_distance_has_no_scale(factor: float) -> None:
    vectors = torch.randn(11, 5, dtype=torch.float64)
    expected = gcnet.analysis.average_cosine_distance(vectors)
    assert_equal_within(gcnet.analysis.average_cosine_distance(vectors * factor), expected, torch.float64)


def test_half_precision_is_counted_in_double() -> None:
    attention = some_attention(29, 23)
    for average in AVERAGES:
        assert average(attention.half()).dtype == torch.float64
        assert_equal_within(average(attention.half()), average(attention), torch.float16)


def test_pairs_drawn_give_the_mean_within_their_standard_error_and_no_bias() -> None:
    attention = some_attention(40, 23, 19)
    exact = estimate_jensen_shannon(attention)
    drawn = estimate_jensen_shannon(attention, exact_up_to=22, pairs=97)
    assert not exact.standard_error.any()
    scores = (drawn.mean - exact.mean) / drawn.standard_error
    assert 0.7 < scores.std().item() < 1.3, "the standard error is what the means scatter by"
    assert abs(scores.mean().item()) < 4 / 40**0.5


def test_pairs_drawn_are_the_same_in_each_call() -> None:
    attention = some_attention(23, 19)
    first, second = (estimate_jensen_shannon(attention, exact_up_to=1, pairs=13) for _ in range(2))
    assert torch.equal(first.mean, second.mean)


def test_weights_that_are_no_distribution_are_refused() -> None:
    with pytest.raises(UserError, match=r"needs distributions: .* found weights from -"):
        gcnet.analysis.average_jensen_shannon(some_attention(5, 3) - 0.5)
    with pytest.raises(UserError, match="sums up to 2"):
        gcnet.analysis.average_jensen_shannon(2 * some_attention(5, 3))


@pytest.mark.parametrize("average", AVERAGES)
def test_no_position_at_all_is_refused(average) -> None:
    with pytest.raises(UserError, match=r"at least one position, found \(2, 0, 3\)"):
        average(torch.zeros(2, 0, 3))


def test_the_package_finds_them_without_importing_torch_first() -> None:
    code = (
        "import sys, gcnet; assert 'torch' not in sys.modules and 'gcnet.analysis' not in sys.modules; gcnet.analysis; "
        "assert 'torch' not in sys.modules; gcnet.analysis.average_cosine_distance; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
