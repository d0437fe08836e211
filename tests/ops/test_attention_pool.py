"""Attention pooling against an obvious loop, its identities, and half precision over many positions."""

import math

import pytest
import torch
from torch import Tensor

from gcnet.ops.attention_pool import attention_pool, attention_weights
from tolerances import assert_equal_within

MANY = 65_536


def pool_by_loop(x: Tensor, logits: Tensor) -> Tensor:
    """Sum over j of softmax(logits)_j x_j, one number at a time."""
    samples, channels, positions = x.shape
    pooled = torch.zeros(samples, channels, dtype=x.dtype)
    for n in range(samples):
        exponentials = [math.exp(logits[n, j].item()) for j in range(positions)]
        for c in range(channels):
            for j in range(positions):
                pooled[n, c] += exponentials[j] / sum(exponentials) * x[n, c, j]
    return pooled


@pytest.mark.parametrize("positions", [1, 2, 17])
def test_equals_the_obvious_loop(positions: int) -> None:
    x = torch.randn(3, 5, positions, dtype=torch.float64)
    logits = 3 * torch.randn(3, positions, dtype=torch.float64)
    expected = pool_by_loop(x, logits)
    assert_equal_within(attention_pool(x, logits), expected, torch.float64)
    assert_equal_within(attention_pool(x.float(), logits.float()), expected, torch.float32)


def test_gradients_equal_finite_differences() -> None:
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention_pool, (x, logits))
    assert torch.autograd.gradgradcheck(attention_pool, (x, logits))


def test_constant_logits_pool_the_average() -> None:
    x = torch.randn(2, 3, 101, dtype=torch.float64)
    assert_equal_within(attention_pool(x, torch.full((2, 101), 7.0).double()), x.mean(2), torch.float64)


def test_one_logit_far_above_the_others_picks_its_position() -> None:
    x = torch.randn(2, 3, 101, dtype=torch.float64)
    logits = torch.zeros(2, 101, dtype=torch.float64)
    logits[:, 53] = 1000
    assert torch.equal(attention_pool(x, logits), x[:, :, 53])


def test_adding_a_constant_to_all_logits_changes_nothing() -> None:
    x, logits = torch.randn(2, 3, 101, dtype=torch.float64), torch.randn(2, 101, dtype=torch.float64)
    assert_equal_within(attention_pool(x, logits + 300), attention_pool(x, logits), torch.float64)


def test_permuting_positions_changes_nothing() -> None:
    x, logits = torch.randn(2, 3, 101, dtype=torch.float64), torch.randn(2, 101, dtype=torch.float64)
    order = torch.randperm(101)
    assert_equal_within(attention_pool(x[:, :, order], logits[:, order]), attention_pool(x, logits), torch.float64)


def test_map_that_is_not_contiguous_gives_the_same() -> None:
    x, logits = torch.randn(2, 101, 3, dtype=torch.float64).transpose(1, 2), torch.randn(2, 101, dtype=torch.float64)
    assert not x.is_contiguous()
    assert_equal_within(attention_pool(x, logits), attention_pool(x.contiguous(), logits), torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("shape", ["uniform", "two-valued", "one-above-all", "all-above-one"])
def test_half_precision_with_logits_of_60_over_65536_positions_is_finite_and_near_float32(
    shape: str, dtype: torch.dtype
) -> None:
    logits = {
        "uniform": torch.empty(1, MANY).uniform_(-60, 60),
        "two-valued": torch.where(torch.rand(1, MANY) < 0.5, 60.0, -60.0),
        "one-above-all": torch.full((1, MANY), -60.0).index_fill_(1, torch.tensor([40_009]), 60.0),
        "all-above-one": torch.full((1, MANY), 60.0).index_fill_(1, torch.tensor([40_009]), -60.0),
    }[shape].to(dtype)
    x = (torch.randn(1, 3, MANY) + 1).to(dtype).requires_grad_()
    logits.requires_grad_()

    pooled = attention_pool(x, logits)
    pooled.sum().backward()

    assert pooled.dtype == dtype
    assert_equal_within(pooled, attention_pool(x.float(), logits.float()), dtype)
    assert x.grad is not None and x.grad.isfinite().all()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_weights_of_half_precision_logits_are_float32_and_sum_to_one(dtype: torch.dtype) -> None:
    weights = attention_weights(torch.empty(2, MANY).uniform_(-60, 60).to(dtype))
    assert weights.dtype == torch.float32
    assert_equal_within(weights.sum(1), torch.ones(2), torch.float32)
