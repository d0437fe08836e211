"""What the named blocks do with maps of any size, dtype and memory layout."""

import copy
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from named_blocks import (
    NON_LOCAL,
    PERMUTABLE,
    QUERY_INDEPENDENT,
    SETTINGS,
    SIDES,
    WITH_BATCH_NORM,
    every,
    every_dims,
    every_identity,
    make,
)
from random_weights import randomize
from tolerances import assert_equal_within


@every
def test_gradients_equal_finite_differences(name: str) -> None:
    block = randomize(make(name, channels=16)).double()
    x = torch.randn(2, 16, 2, 3, dtype=torch.float64, requires_grad=True)
    weights = dict(block.named_parameters())

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(block, dict(zip(weights, values, strict=True)), x)

    # Statistics of batch norm move at each call in training and would differ from one difference to the next.
    block.eval()
    assert torch.autograd.gradcheck(call, (x, *weights.values()), fast_mode=True)


def strided(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=-1)[..., ::2]


def expanded_batch(x: Tensor) -> Tensor:
    return x[:1].expand(x.shape)


def channels_last(x: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.dim()]) if x.dim() in formats else x.mT.contiguous().mT


@pytest.mark.parametrize("layout", [strided, channels_last, expanded_batch], ids=lambda layout: layout.__name__)
@every_dims
@every
def test_memory_layout_changes_neither_values_nor_gradients(
    name: str, dims: int, layout: Callable[[Tensor], Tensor]
) -> None:
    block = randomize(make(name, dims=dims)).double()
    other = layout(torch.randn(2, 22, *SIDES[dims], dtype=torch.float64))
    plain = other.clone(memory_format=torch.contiguous_format)
    assert not other.is_contiguous()
    twin = copy.deepcopy(block)
    direction = torch.randn_like(plain)

    x, y = plain.requires_grad_(), other.detach().requires_grad_()
    expected, output = block(x), twin(y)
    (expected * direction).sum().backward()
    (output * direction).sum().backward()

    assert_equal_within(output, expected, torch.float64)
    assert x.grad is not None and y.grad is not None
    assert_equal_within(y.grad, x.grad, torch.float64, "gradients of the input")
    for (key, ours), reference in zip(twin.named_parameters(), block.parameters(), strict=True):
        assert ours.grad is not None and reference.grad is not None
        assert_equal_within(ours.grad, reference.grad, torch.float64, f"gradients of {key}", scale=100)


@every
def test_channels_last_map_stays_channels_last(name: str) -> None:
    x = torch.randn(2, 22, 5, 7).to(memory_format=torch.channels_last)
    assert make(name)(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@every
def test_output_has_the_map_s_dtype_and_is_near_float64(name: str, dtype: torch.dtype) -> None:
    block = randomize(make(name)).eval().to(dtype)
    x = torch.randn(2, 22, 5, 7).to(dtype)
    expected = copy.deepcopy(block).double()(x.double())
    output = block(x)
    assert output.dtype == dtype
    assert_equal_within(output, expected, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every
def test_autocast_keeps_the_map_s_dtype_and_is_near_float32(name: str, dtype: torch.dtype) -> None:
    block = randomize(make(name)).eval()
    x = torch.randn(2, 22, 5, 7, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        output = block(x)
        output.sum().backward()
    assert output.dtype == torch.float32
    assert_equal_within(output, block(x), dtype)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in block.parameters())


@every_identity
def test_new_block_is_the_identity_under_autocast(name: str) -> None:
    x = torch.randn(2, 22, 5, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(make(name)(x), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["gc", "gc both", "snl"])
def test_logits_of_60_over_65536_positions_stay_finite_in_half_precision_and_near_float32(
    name: str, dtype: torch.dtype
) -> None:
    block = randomize(make(name, channels=16))
    with torch.no_grad():
        weight = block.get_parameter("context.key.weight")
        weight.zero_()[0, 0] = 60
    x = torch.randn(1, 16, 256, 256)
    x[:, 0].uniform_(-1, 1)
    block, x = block.to(dtype), x.to(dtype)
    expected = copy.deepcopy(block).float()(x.float())
    assert_equal_within(block(x), expected, torch.bfloat16)


@pytest.mark.parametrize("sides", [(1, 1), (1, 97), (97, 1), (2, 3), (31, 37)], ids=str)
@pytest.mark.parametrize("samples", [1, 3])
@every
def test_odd_sizes_and_single_samples_work_forward_and_backward(
    name: str, samples: int, sides: tuple[int, int]
) -> None:
    block = randomize(make(name))
    if samples == 1 and (sides == (1, 1) or name in WITH_BATCH_NORM):
        block.eval()  # No batch statistics of one value.
    x = torch.randn(samples, 22, *sides, requires_grad=True)
    output = block(x)
    output.square().sum().backward()
    assert output.shape == x.shape and output.isfinite().all()
    assert x.grad is not None and x.grad.isfinite().all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in block.parameters())


@settings(max_examples=200)
@given(
    name=st.sampled_from(QUERY_INDEPENDENT),
    samples=st.integers(1, 3),
    height=st.integers(1, 97),
    width=st.integers(1, 97),
)
def test_query_independent_block_tells_every_position_the_same(
    name: str, samples: int, height: int, width: int
) -> None:
    block = randomize(make(name)).eval()
    x = torch.rand(samples, 22, height, width) + 0.5
    output = block(x)
    assert output.shape == x.shape
    if name in ("gc both", "grn"):
        # y = a x + b with a and b of the whole map: any three positions lie on a line.
        x, output = x.flatten(2), output.flatten(2)
        run, rise = x[..., -1:] - x[..., :1], output[..., -1:] - output[..., :1]
        assert_equal_within(rise * (x - x[..., :1]), run * (output - output[..., :1]), torch.float32)
        return
    told = output - x if name.split()[0] in ("gc", "snl", "gc_eca", "gc_affine") and name != "gc scale" else output / x
    assert_equal_within(told, told[:, :, :1, :1].expand(told.shape), torch.float32)


@settings(max_examples=100)
@given(
    name=st.sampled_from([name for name in SETTINGS if name.split()[0] in NON_LOCAL]),
    samples=st.integers(1, 3),
    height=st.integers(1, 97),
    width=st.integers(1, 13),
    transposed=st.booleans(),
)
def test_non_local_block_takes_maps_of_any_size_and_orientation(
    name: str, samples: int, height: int, width: int, transposed: bool
) -> None:
    block = randomize(make(name)).eval()
    x = torch.randn(samples, 22, height, width)
    output = block(x.mT if transposed else x)
    assert output.isfinite().all()
    assert_equal_within(output.mT if transposed else output, block(x), torch.float32)


@every_dims
@pytest.mark.parametrize("name", PERMUTABLE)
def test_permuting_positions_permutes_the_output_in_the_same_way(name: str, dims: int) -> None:
    block = randomize(make(name, dims=dims)).eval().double()
    x = torch.randn(2, 22, *SIDES[dims], dtype=torch.float64)
    order = torch.randperm(x[0, 0].numel())
    expected = block(x).flatten(2)[:, :, order]
    assert_equal_within(block(x.flatten(2)[:, :, order].view(x.shape)).flatten(2), expected, torch.float64)


@pytest.mark.parametrize("name", ["nl_embedded_gaussian", "nl_embedded_gaussian sub_sample"])
def test_embedded_gaussian_with_zero_query_adds_the_same_vector_at_every_position(name: str) -> None:
    block = randomize(make(name)).double()
    with torch.no_grad():
        block.get_parameter("context.query.weight").zero_()
        block.get_parameter("context.query.bias").zero_()
    x = torch.randn(2, 22, 5, 7, dtype=torch.float64)
    added = block(x) - x
    assert_equal_within(added, added[:, :, :1, :1].expand(added.shape), torch.float64)


def test_gc_with_constant_attention_is_gc_with_average_pooling() -> None:
    attention, average = randomize(make("gc")).double(), make("gc average").double()
    with torch.no_grad():
        attention.get_parameter("context.key.weight").zero_()
    average.load_state_dict(
        {key: tensor for key, tensor in attention.state_dict().items() if not key.startswith("context.")}
    )
    x = torch.randn(2, 22, 5, 7, dtype=torch.float64)
    assert_equal_within(attention(x), average(x), torch.float64)


@every
def test_map_of_other_channels_or_axes_is_refused(name: str) -> None:
    for shape in ((2, 21, 5, 7), (2, 22, 5), (2, 22, 3, 5, 7)):
        with pytest.raises(ValueError, match=re.escape(f"takes maps of shape (N, 22, H, W), found {shape}")):
            make(name)(torch.zeros(shape))
