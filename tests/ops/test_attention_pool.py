"""Attention pooling against an obvious loop, its own gradient against finite differences and autograd, its identities,
what it keeps for the backward pass, and half precision over many positions."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from gcnet.ops.attention_pool import (
    attention_logits,
    attention_pool,
    attention_pool_reference,
    attention_pool_with_map,
    attention_weights,
    weighted_sum,
)
from tolerances import assert_equal_within

MANY = 65_536


def made_up(
    channels: int, positions: int, *, samples: int = 3, rows: bool = False, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """A map, with `rows` in channels-last memory, and the weight and bias of a key."""
    x = torch.randn(samples, channels, positions, dtype=dtype)
    x = x.transpose(1, 2).contiguous().transpose(1, 2) if rows else x
    return x, torch.randn(channels, dtype=dtype), torch.randn((), dtype=dtype)


def pool_by_loop(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Sum over j of softmax(weight . x_j + bias) x_j, one number at a time."""
    samples, channels, positions = x.shape
    pooled = torch.zeros(samples, channels, dtype=x.dtype)
    for n in range(samples):
        exponentials = []
        for j in range(positions):
            logit = sum(weight[c].item() * x[n, c, j].item() for c in range(channels)) + bias.item()
            exponentials.append(math.exp(logit))
        for c in range(channels):
            for j in range(positions):
                pooled[n, c] += exponentials[j] / sum(exponentials) * x[n, c, j]
    return pooled


@pytest.mark.parametrize("rows", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("positions", [1, 2, 17])
@pytest.mark.parametrize("channels", [1, 5])
def test_equals_the_obvious_loop(channels: int, positions: int, grad: bool, rows: bool) -> None:
    given = made_up(channels, positions, rows=rows)
    expected = pool_by_loop(*given)
    with torch.set_grad_enabled(grad):
        assert_equal_within(attention_pool(*given), expected, torch.float64)
        assert_equal_within(attention_pool(*(one.float() for one in given)), expected, torch.float32)


@pytest.mark.parametrize("rows", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("positions", [1, 2, 7])
def test_first_and_second_gradients_equal_finite_differences(positions: int, rows: bool) -> None:
    given = [one.requires_grad_() for one in made_up(3, positions, samples=2, rows=rows)]
    assert torch.autograd.gradcheck(attention_pool, given)
    assert torch.autograd.gradgradcheck(attention_pool, given)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_gradients_of_some_arguments_alone_equal_autograd_s(wanted: tuple[int, ...]) -> None:
    given = made_up(5, 17)
    for index in wanted:
        given[index].requires_grad_()
    leaves = [given[index] for index in wanted]
    weights = torch.randn(3, 5, dtype=torch.float64)
    found = torch.autograd.grad((attention_pool(*given) * weights).sum(), leaves)
    expected = torch.autograd.grad((attention_pool_reference(*given) * weights).sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        assert_equal_within(one, other, torch.float64)


def test_gradients_in_float32_are_near_those_in_float64() -> None:
    for rows in (False, True):
        given = made_up(16, 97, rows=rows)
        for one, other in zip(
            gradients(attention_pool, given, torch.float32), gradients(attention_pool, given), strict=True
        ):
            assert_equal_within(one, other, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("rows", [False, True], ids=["contiguous", "channels-last"])
def test_gradients_in_half_precision_are_as_near_to_those_in_float64_as_autograd_s(
    rows: bool, dtype: torch.dtype
) -> None:
    given = tuple(one.to(dtype) for one in made_up(16, 97, rows=rows))
    exact = gradients(attention_pool_reference, given)
    found, plain = gradients(attention_pool, given, dtype), gradients(attention_pool_reference, given, dtype)
    for one, other, judge in zip(found[:2], plain, exact, strict=False):
        assert one.dtype == dtype
        assert (one.double() - judge).norm() <= 1.5 * (other.double() - judge).norm()


def gradients(
    pool: Callable[..., Tensor], given: Sequence[Tensor], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    """Of the sum of what is pooled, in this precision."""
    leaves = [one.detach().to(dtype).requires_grad_() for one in given]
    return torch.autograd.grad(pool(*leaves).sum(), leaves)


def test_gradient_of_the_map_has_the_map_s_memory_format() -> None:
    for rows in (False, True):
        x, weight, bias = made_up(5, 17, rows=rows)
        attention_pool(x.requires_grad_(), weight, bias).sum().backward()
        assert x.grad is not None and x.grad.stride() == x.stride()


def test_the_map_its_attention_and_vectors_are_saved_for_the_backward_pass() -> None:
    x, weight, bias = made_up(64, 1009)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        attention_pool(x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_())
    numbers = x.numel() + 3 * 1009 + 3 * 64 + 64 + 1
    assert sum(kept.values()) == numbers * x.element_size()


def test_per_sample_gradients_of_torch_func_equal_a_loop() -> None:
    x, weight, bias = made_up(5, 17)

    def loss(weight: Tensor, one: Tensor) -> Tensor:
        return attention_pool(one.unsqueeze(0), weight, bias).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, x)
    for one, row in zip(x, found, strict=True):
        assert_equal_within(row, torch.func.grad(loss)(weight, one), torch.float64)


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_under_autocast_it_keeps_the_map_s_precision(grad: bool) -> None:
    x, weight, bias = made_up(5, 17, dtype=torch.float32)
    expected = attention_pool(x, weight, bias)
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(grad):
        pooled = attention_pool(x, weight, bias)
        halved = attention_pool(x.bfloat16(), weight, bias)
    assert torch.equal(pooled, expected)
    assert halved.dtype == torch.bfloat16


@pytest.mark.usefixtures("unchecked_shapes")
def test_compiled_it_has_no_graph_break_and_the_same_values_and_gradients() -> None:
    given = [one.requires_grad_() for one in made_up(5, 17)]
    compiled = torch.compile(attention_pool, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*given).sum(), given)
    expected = torch.autograd.grad(attention_pool(*given).sum(), given)
    for one, other in zip(found, expected, strict=True):
        assert_equal_within(one, other, torch.float64)


def test_zero_weight_pools_the_average() -> None:
    x, weight, bias = made_up(3, 101)
    assert_equal_within(attention_pool(x, 0 * weight, bias), x.mean(2), torch.float64)


def test_one_logit_far_above_the_others_picks_its_position() -> None:
    x, weight, bias = made_up(3, 101)
    weight, x[:, 0] = torch.tensor([1000.0, 0, 0]).double(), 0
    x[:, 0, 53] = 1
    assert torch.equal(attention_pool(x, weight, bias), x[:, :, 53])


def test_the_bias_changes_nothing() -> None:
    x, weight, bias = made_up(3, 101)
    assert_equal_within(attention_pool(x, weight, bias + 300), attention_pool(x, weight, bias), torch.float64)


def test_permuting_positions_changes_nothing() -> None:
    x, weight, bias = made_up(3, 101)
    order = torch.randperm(101)
    assert_equal_within(attention_pool(x[:, :, order], weight, bias), attention_pool(x, weight, bias), torch.float64)


def test_map_that_is_a_part_of_another_gives_the_same() -> None:
    whole, weight, bias = made_up(3, 202)
    x = whole[:, :, ::2]
    assert_equal_within(attention_pool(x, weight, bias), attention_pool(x.contiguous(), weight, bias), torch.float64)


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
    x = (torch.randn(1, 3, MANY) + 1).to(dtype)
    x[:, 0] = logits
    x.requires_grad_()
    weight = torch.tensor([1.0, 0, 0], dtype=dtype, requires_grad=True)
    bias = torch.zeros((), dtype=dtype)

    pooled = attention_pool(x, weight, bias)
    pooled.sum().backward()

    assert pooled.dtype == dtype
    assert_equal_within(pooled, attention_pool(x.float(), weight.float(), bias.float()), dtype)
    assert x.grad is not None and x.grad.isfinite().all()
    assert weight.grad is not None and weight.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_weights_of_half_precision_logits_are_float32_and_sum_to_one(dtype: torch.dtype) -> None:
    weights = attention_weights(torch.empty(2, MANY).uniform_(-60, 60).to(dtype))
    assert weights.dtype == torch.float32
    assert_equal_within(weights.sum(1), torch.ones(2), torch.float32)


def test_logits_and_sums_of_both_memory_formats_equal_einsum() -> None:
    for rows in (False, True):
        x, weight, bias = made_up(5, 17, rows=rows)
        weights = torch.rand(3, 17, dtype=torch.float64)
        expected = torch.einsum("ncp,c->np", x, weight) + bias
        assert_equal_within(attention_logits(x, weight, bias), expected, torch.float64)
        assert_equal_within(weighted_sum(x, weights), torch.einsum("ncp,np->nc", x, weights), torch.float64)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
def test_with_its_map_the_gradients_are_those_of_map_and_pooling(layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, 4, 5).double().to(memory_format=layout).requires_grad_()
    weight, bias = torch.randn(3).double().requires_grad_(), torch.randn(()).double().requires_grad_()
    arguments = x, weight, bias
    assert torch.autograd.gradcheck(attention_pool_with_map, arguments)
    assert torch.autograd.gradgradcheck(attention_pool_with_map, arguments)

    def loss(same: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return (same.cos() + context[..., None, None]).square().sum()

    found = torch.autograd.grad(loss(*attention_pool_with_map(*arguments)), arguments)
    expected = torch.autograd.grad(loss(x, attention_pool(x.flatten(2), weight, bias)), arguments)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same, context = attention_pool_with_map(*(one.float() for one in arguments))
    assert same.dtype == context.dtype == torch.float32
    torch.testing.assert_close(context.double(), attention_pool(x.flatten(2), weight, bias), atol=1e-5, rtol=1e-5)
    assert found[0].is_contiguous(memory_format=layout)


def test_the_gradient_of_a_weight_that_depends_on_the_map_has_a_gradient() -> None:
    def pooled(x: torch.Tensor) -> torch.Tensor:
        return attention_pool(x, x.mean((0, 2)), x.new_zeros(()))

    x = torch.randn(2, 3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(pooled, x)
    assert torch.autograd.gradgradcheck(pooled, x)
