"""Contexts: what they pool, what `attention` returns, and how key positions are sub-sampled."""

import pytest
import torch
from torch import Tensor, nn

from gcnet.blocks import build_block
from gcnet.framework import (
    AttentionPool,
    AveragePool,
    ConcatenationAffinity,
    ContextBlock,
    DotProductAffinity,
    NonLocal,
    Pointwise,
    SoftmaxAffinity,
    SubSample,
)
from tolerances import assert_equal_within

SIDES = {1: (13,), 2: (5, 7), 3: (3, 5, 7)}
NON_LOCAL = ["nl_gaussian", "nl_embedded_gaussian", "nl_dot_product", "nl_concatenation"]


def non_local(name: str, dims: int = 2, **options: object) -> NonLocal:
    """The context of a named block, with weights large enough that its attention is far from uniform."""
    block = build_block(name, channels=6, dims=dims, **options).double()
    assert isinstance(block, ContextBlock) and isinstance(block.context, NonLocal)
    for parameter in block.context.parameters():
        nn.init.normal_(parameter)
    return block.context


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_average_pool_is_the_mean_over_all_positions(dims: int) -> None:
    x = torch.randn(2, 3, *SIDES[dims], dtype=torch.float64)
    pooled = AveragePool()(x)
    assert pooled.shape == (2, 3, *[1] * dims)
    assert_equal_within(pooled.flatten(1), x.flatten(2).sum(2) / x[0, 0].numel(), torch.float64)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_attention_pool_weighs_every_position_by_its_softmax(dims: int) -> None:
    pool = AttentionPool(3).double()
    nn.init.normal_(pool.key.bias)
    x = torch.randn(2, 3, *SIDES[dims], dtype=torch.float64)
    logits = torch.einsum("c,ncp->np", pool.key.weight[0], x.flatten(2)) + pool.key.bias
    weights = logits.exp() / logits.exp().sum(1, keepdim=True)
    assert_equal_within(pool.attention(x), weights.view(2, *SIDES[dims]), torch.float64)
    expected = (x.flatten(2) * weights.unsqueeze(1)).sum(2)
    assert_equal_within(pool(x), expected.view(2, 3, *[1] * dims), torch.float64)


def test_attention_pool_with_constant_logits_is_the_average_pool() -> None:
    pool = AttentionPool(3).double()
    nn.init.zeros_(pool.key.weight)
    nn.init.constant_(pool.key.bias, 5)
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    assert_equal_within(pool(x), AveragePool()(x), torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_attention_pool_in_half_precision_with_logits_of_60_over_65536_positions_is_near_float32(
    dtype: torch.dtype,
) -> None:
    pool = AttentionPool(3)
    with torch.no_grad():
        pool.key.weight.copy_(torch.tensor([[60.0, 0.0, 0.0]]))
    x = torch.randn(1, 3, 256, 256)
    x[:, 0].uniform_(-1, 1)
    x = x.to(dtype)
    expected = pool(x.float())
    assert_equal_within(pool.to(dtype)(x), expected, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_average_pool_of_65536_large_positions_does_not_overflow(dtype: torch.dtype) -> None:
    x = torch.full((1, 3, 256, 256), 60.0, dtype=dtype)
    assert torch.equal(AveragePool()(x), torch.full((1, 3, 1, 1), 60.0, dtype=dtype))


@pytest.mark.parametrize("sub_sample", [False, True], ids=["all-keys", "sub-sampled"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", NON_LOCAL)
def test_forward_of_a_non_local_context_sums_the_values_by_its_attention(
    name: str, dims: int, sub_sample: bool
) -> None:
    context = non_local(name, dims, sub_sample=sub_sample)
    x = torch.randn(2, 6, *SIDES[dims], dtype=torch.float64)
    attention = context.attention(x)
    value = context.sub_sample(context.value(x)).flatten(2)
    assert attention.shape == (2, x[0, 0].numel(), value.shape[2])
    assert_equal_within(context(x).flatten(2), torch.einsum("npk,nvk->nvp", attention, value), torch.float64)


@pytest.mark.parametrize("name", ["nl_gaussian", "nl_embedded_gaussian"])
def test_every_query_s_softmax_attention_sums_to_one(name: str) -> None:
    attention = non_local(name).attention(torch.randn(2, 6, 5, 7, dtype=torch.float64))
    assert_equal_within(attention.sum(2), torch.ones(2, 35).double(), torch.float64)


def test_concatenation_scores_the_stacked_query_and_key() -> None:
    affinity = ConcatenationAffinity(3).double()
    query, key = torch.randn(1, 3, 5).double(), torch.randn(1, 3, 7).double()
    weight = affinity.weight.flatten()  # (2 D,), for [q; k]
    expected = torch.zeros(1, 5, 7).double()
    for i in range(5):
        for j in range(7):
            expected[0, i, j] = (weight @ torch.cat([query[0, :, i], key[0, :, j]])).clamp(min=0) / 7
    assert_equal_within(affinity.weights(query, key), expected, torch.float64)


def test_scaling_divides_the_products_by_the_root_of_the_query_s_channels() -> None:
    query, key = torch.randn(1, 16, 5).double(), torch.randn(1, 16, 7).double()
    scaled = SoftmaxAffinity(scaled=True).weights(4 * query, key)
    assert_equal_within(scaled, SoftmaxAffinity(scaled=False).weights(query, key), torch.float64)


def test_custom_parts_make_a_non_local_context() -> None:
    context = NonLocal(
        Pointwise(3, 5), Pointwise(3, 5), Pointwise(3, 7), affinity=DotProductAffinity(), sub_sample=nn.Identity()
    )
    assert context(torch.randn(2, 3, 5, 7)).shape == (2, 7, 5, 7)


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((1,), (1,)),
        ((2,), (1,)),
        ((13,), (6,)),
        ((1, 7), (1, 3)),
        ((7, 1), (3, 1)),
        ((1, 1), (1, 1)),
        ((5, 7), (2, 3)),
        ((3, 5, 7), (3, 2, 3)),
        ((3, 1, 7), (3, 1, 3)),
        ((1, 5, 1), (1, 2, 1)),
    ],
    ids=str,
)
def test_sub_sampling_halves_each_side_and_leaves_a_side_of_one_and_time_as_they_are(
    sides: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert SubSample()(torch.randn(2, 3, *sides)).shape == (2, 3, *expected)


def test_sub_sampling_takes_the_largest_of_each_window() -> None:
    x = torch.tensor([[[[1.0, 5, 2, 0, 9], [3, 4, 8, 7, 9], [9, 9, 9, 9, 9]]]])
    assert SubSample()(x).tolist() == [[[[5.0, 8.0]]]]
    assert SubSample()(x[:, :, :1]).tolist() == [[[[5.0, 2.0]]]]


def positions_permuted(x: Tensor, order: Tensor) -> Tensor:
    return x.flatten(2)[:, :, order].view(x.shape)


@pytest.mark.parametrize("name", NON_LOCAL)
def test_permuting_positions_permutes_the_context_alike(name: str) -> None:
    context = non_local(name)
    x, order = torch.randn(2, 6, 5, 7, dtype=torch.float64), torch.randperm(35)
    expected = positions_permuted(context(x), order)
    assert_equal_within(context(positions_permuted(x, order)), expected, torch.float64)
