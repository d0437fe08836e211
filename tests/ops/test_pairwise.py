"""The four non-local aggregations against obvious loops, in values and gradients, and where they meet extremes."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gcnet.ops import pairwise
from gcnet.ops.pairwise import (
    concatenation_aggregate,
    concatenation_weights,
    dot_product_aggregate,
    dot_product_weights,
    fused_width,
    softmax_aggregate,
    softmax_weights,
)
from tolerances import assert_equal_within

SCALE = 0.37
SIZES = [(1, 1, 1, 1), (3, 1, 7, 5), (5, 11, 13, 3), (11, 13, 1, 11), (7, 7, 7, 7)]  # D, V, queries, keys


def softmax_loop(query: Tensor, key: Tensor, i: int) -> list[float]:
    exponentials = [math.exp(SCALE * float(query[:, i] @ key[:, j])) for j in range(key.shape[1])]
    return [value / sum(exponentials) for value in exponentials]


def dot_product_loop(query: Tensor, key: Tensor, i: int) -> list[float]:
    return [float(query[:, i] @ key[:, j]) / key.shape[1] for j in range(key.shape[1])]


def concatenation_loop(query: Tensor, key: Tensor, i: int) -> list[float]:
    return [max(0.0, float(query[i] + key[j])) / key.shape[0] for j in range(key.shape[0])]


def test_gpus_get_widths_that_their_fused_attention_takes() -> None:
    widths = [fused_width(width, torch.device("cuda")) for width in (1, 8, 9, 100, 128)]
    assert widths == [8, 8, 16, 104, 128]
    assert fused_width(9, torch.device("cpu")) == 9


@pytest.mark.parametrize(("d", "v"), [(5, 11), (11, 5), (3, 3)])
def test_padded_widths_give_the_same_context(monkeypatch: pytest.MonkeyPatch, d: int, v: int) -> None:
    query, key, value = torch.randn(2, d, 6).double(), torch.randn(2, d, 4).double(), torch.randn(2, v, 4).double()
    expected = softmax(query, key, value)
    monkeypatch.setattr(pairwise, "fused_width", lambda width, _: fused_width(width, torch.device("cuda")))
    assert_equal_within(softmax(query, key, value), expected, torch.float64)


def softmax(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return softmax_aggregate(query, key, value, SCALE)


def softmax_matrix(query: Tensor, key: Tensor) -> Tensor:
    return softmax_weights(query, key, SCALE)


Case = tuple[
    Callable[[Tensor, Tensor, Tensor], Tensor],
    Callable[[Tensor, Tensor], Tensor],
    Callable[[Tensor, Tensor, int], list[float]],
]
CASES: dict[str, Case] = {
    "softmax": (softmax, softmax_matrix, softmax_loop),
    "dot_product": (dot_product_aggregate, dot_product_weights, dot_product_loop),
    "concatenation": (concatenation_aggregate, concatenation_weights, concatenation_loop),
}
each = pytest.mark.parametrize("name", CASES)


def inputs(name: str, sizes: tuple[int, int, int, int], samples: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    depth, width, queries, keys = sizes
    axes = () if name == "concatenation" else (depth,)
    query, key = torch.randn(samples, *axes, queries), torch.randn(samples, *axes, keys)
    return query.double(), key.double(), torch.randn(samples, width, keys).double()


@each
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_equals_the_obvious_loop(name: str, sizes: tuple[int, int, int, int]) -> None:
    aggregate, weights, loop = CASES[name]
    query, key, value = inputs(name, sizes)
    expected = torch.zeros(2, sizes[1], sizes[2], dtype=torch.float64)
    matrix = torch.zeros(2, sizes[2], sizes[3], dtype=torch.float64)
    for n in range(2):
        for i in range(sizes[2]):
            for j, weight in enumerate(loop(query[n], key[n], i)):
                matrix[n, i, j] = weight
                expected[n, :, i] += weight * value[n, :, j]
    assert_equal_within(aggregate(query, key, value), expected, torch.float64)
    assert_equal_within(weights(query, key), matrix, torch.float64, "weights")
    assert_equal_within(aggregate(query.float(), key.float(), value.float()), expected, torch.float32)


@each
@pytest.mark.parametrize("sizes", [(3, 5, 7, 2), (5, 5, 3, 3)], ids=str)
def test_gradients_equal_finite_differences(name: str, sizes: tuple[int, int, int, int]) -> None:
    tensors = tuple(tensor.requires_grad_() for tensor in inputs(name, sizes))
    assert torch.autograd.gradcheck(CASES[name][0], tensors)
    assert torch.autograd.gradcheck(CASES[name][1], tensors[:2])


@each
def test_permuting_keys_changes_nothing_and_permuting_queries_permutes_the_result(name: str) -> None:
    aggregate = CASES[name][0]
    query, key, value = inputs(name, (5, 11, 13, 7))
    expected = aggregate(query, key, value)
    keys, queries = torch.randperm(7), torch.randperm(13)
    assert_equal_within(aggregate(query, key[..., keys], value[..., keys]), expected, torch.float64)
    assert_equal_within(aggregate(query[..., queries], key, value), expected[..., queries], torch.float64)


@each
def test_tensors_that_are_not_contiguous_give_the_same(name: str) -> None:
    aggregate = CASES[name][0]
    tensors = inputs(name, (5, 11, 13, 7))
    strided = [tensor.repeat_interleave(2, dim=-1)[..., ::2] for tensor in tensors]
    assert not any(tensor.is_contiguous() for tensor in strided)
    assert_equal_within(aggregate(*strided), aggregate(*tensors), torch.float64)


def test_softmax_of_zero_queries_is_the_mean_of_the_values_at_every_position() -> None:
    query, key, value = inputs("softmax", (5, 11, 13, 7))
    expected = value.mean(-1, keepdim=True).expand(2, 11, 13)
    assert_equal_within(softmax(torch.zeros_like(query), key, value), expected, torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("width", [8, 5], ids=["equal-widths", "value-of-its-own-width"])
def test_softmax_in_half_precision_with_logits_of_60_is_finite_and_near_float32(width: int, dtype: torch.dtype) -> None:
    query, key, value = (tensor.to(dtype) for tensor in inputs("softmax", (8, width, 257, 509), samples=1))
    scale = 60 / float((query.float().transpose(1, 2) @ key.float()).abs().max())
    expected = softmax_aggregate(query.float(), key.float(), value.float(), scale)
    assert_equal_within(softmax_aggregate(query, key, value, scale), expected, dtype)


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_of_many_large_values_does_not_overflow(name: str, dtype: torch.dtype) -> None:
    query, key, value = (tensor.to(dtype) for tensor in inputs(name, (8, 8, 3, 65_536), samples=1))
    value = value.abs() + 10
    key = key.abs() if name != "softmax" else key
    expected = CASES[name][0](query.float(), key.float(), value.float())
    assert_equal_within(CASES[name][0](query, key, value), expected, dtype)


class LargestTensor(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:  # noqa: ARG002
        result = operation(*arguments, **(options or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@each
@pytest.mark.parametrize("width", [8, 5], ids=["equal-widths", "value-of-its-own-width"])
def test_neither_values_nor_gradients_make_a_matrix_of_positions(name: str, width: int) -> None:
    tensors = [tensor.float().requires_grad_() for tensor in inputs(name, (8, width, 257, 263), samples=1)]
    with LargestTensor() as largest:
        CASES[name][0](*tensors).sum().backward()
    assert largest.elements < 257 * 263 / 8


@pytest.mark.parametrize("name", ["dot_product", "concatenation"])
def test_linear_operators_take_a_hundred_thousand_positions(name: str) -> None:
    positions = 100_003  # Squared, 40 GB.
    aggregate, weights, _ = CASES[name]
    axes = () if name == "concatenation" else (2,)
    query, key = (torch.randn(1, *axes, positions) for _ in range(2))
    value = torch.randn(1, 2, positions)
    first = torch.bmm(value.double(), weights(query[..., :5].double(), key.double()).transpose(1, 2))
    assert_equal_within(aggregate(query, key, value)[:, :, :5], first, torch.float32)


def test_concatenation_is_exact_where_large_sums_cancel() -> None:
    query, key = torch.tensor([[-999.5, -1000.5]]), torch.cat([torch.full((1, 4096), 1000.0), torch.zeros(1, 1)], 1)
    value = torch.linspace(-1, 1, 4097)[None, None]
    expected = torch.tensor([[[0.5 * float(value[0, 0, :-1].double().sum()) / 4097, 0.0]]])
    assert_equal_within(concatenation_aggregate(query, key, value), expected, torch.float32)


def test_concatenation_has_a_second_derivative() -> None:
    tensors = tuple(tensor.requires_grad_() for tensor in inputs("concatenation", (3, 5, 7, 2)))
    assert torch.autograd.gradgradcheck(concatenation_aggregate, tensors)
