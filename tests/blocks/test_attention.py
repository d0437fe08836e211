"""Blocks that attend beyond the paper, equal to their formulas in float64 or to a block they contain."""

import pytest
import torch
from torch import Tensor, nn

from gcnet.blocks import build_block
from random_weights import randomize
from tolerances import assert_equal_within

SIDES = {1: (13,), 2: (5, 7), 3: (3, 5, 7)}
every_dims = pytest.mark.parametrize("dims", [1, 2, 3], ids=["1d", "2d", "3d"])


def block_and_map(name: str, *, channels: int = 6, dims: int = 2, **options: object) -> tuple[nn.Module, Tensor]:
    block = randomize(build_block(name, channels=channels, dims=dims, **options)).double().eval()
    return block, torch.randn(2, channels, *SIDES[dims], dtype=torch.float64)


def linear(block: nn.Module, name: str, x: Tensor) -> Tensor:
    """(N, C, P) -> (N, C', P) by the weight and bias under `name`."""
    weight, bias = block.get_parameter(f"{name}.weight"), block.get_parameter(f"{name}.bias")
    return torch.einsum("oc,ncp->nop", weight, x) + bias.view(-1, 1)


def softmax(logits: Tensor) -> Tensor:
    return logits.exp() / logits.exp().sum(-1, keepdim=True)


def pooled(block: nn.Module, x: Tensor) -> Tensor:
    """(N, C): the map pooled by the attention of `context.key`."""
    return torch.einsum("np,ncp->nc", softmax(linear(block, "context.key", x)[:, 0]), x)


@every_dims
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_dnl_adds_a_whitened_pairwise_and_a_unary_term(temperature: float, dims: int) -> None:
    block, x = block_and_map("dnl", dims=dims, temperature=temperature)
    flat = x.flatten(2)
    query, key, value = (linear(block, f"context.{name}", flat) for name in ("query", "key", "value"))
    unary = softmax(linear(block, "context.unary", flat)[:, 0])
    context = torch.zeros_like(value)
    for n in range(2):
        centered_key = key[n] - key[n].mean(1, keepdim=True)
        for i in range(flat.shape[2]):
            logits = (query[n, :, i] - query[n].mean(1)) @ centered_key / (temperature * 3**0.5)
            weights = softmax(logits - logits.max()) + unary[n]
            for j in range(flat.shape[2]):
                context[n, :, i] += weights[j] * value[n, :, j]
    expected = flat + linear(block, "add.transform", context)
    assert_equal_within(block(x).flatten(2), expected, torch.float64)


def test_dnl_s_attention_is_the_weights_of_its_sum() -> None:
    block, x = block_and_map("dnl", temperature=1.0)
    attention = block.context.attention(x)
    assert attention.shape == (2, 35, 35)
    assert_equal_within(attention.sum(2), torch.full((2, 35), 2.0).double(), torch.float64)
    value = linear(block, "context.value", x.flatten(2))
    expected = torch.einsum("nij,nvj->nvi", attention, value)
    assert_equal_within(block.context(x).flatten(2), expected, torch.float64)


def test_dnl_with_constant_query_and_unary_logits_tells_every_position_twice_the_mean() -> None:
    block, x = block_and_map("dnl")
    with torch.no_grad():
        for name in ("query", "unary"):
            block.get_parameter(f"context.{name}.weight").zero_()
    mean = linear(block, "context.value", x.flatten(2)).mean(2)
    expected = (2 * mean)[..., None, None].expand(2, 3, 5, 7)
    assert_equal_within(block.context(x), expected, torch.float64)


@every_dims
@pytest.mark.parametrize("slots", [1, 3])
def test_slots_are_pooled_transformed_and_mixed_by_every_query(slots: int, dims: int) -> None:
    block, x = block_and_map("gc_slots", dims=dims, slots=slots)
    flat = x.flatten(2)
    attention = softmax(linear(block, "context.key", flat))
    mixture = softmax(linear(block, "add.fusion.query", flat).transpose(1, 2))
    weight, bias = block.get_parameter("add.transform.weight"), block.get_parameter("add.transform.bias")
    expected = flat.clone()
    for n in range(2):
        for i in range(flat.shape[2]):
            for s in range(slots):
                expected[n, :, i] += mixture[n, i, s] * (weight @ (flat[n] @ attention[n, s]) + bias)
    assert_equal_within(block(x).flatten(2), expected, torch.float64)
    assert_equal_within(block.context.attention(x), attention.view(2, slots, *SIDES[dims]), torch.float64)
    assert_equal_within(block.add.fusion.mixture(x).flatten(2), mixture.transpose(1, 2), torch.float64)


def test_one_slot_is_simplified_non_local() -> None:
    slots, x = block_and_map("gc_slots", slots=1)
    snl = build_block("snl", channels=6).double()
    snl.load_state_dict({key: tensor for key, tensor in slots.state_dict().items() if "query" not in key})
    assert_equal_within(slots(x), snl(x), torch.float64)


@every_dims
@pytest.mark.parametrize("heads", [2, 3, 6])
def test_each_head_pools_its_channels_by_attention_of_its_own(heads: int, dims: int) -> None:
    block, x = block_and_map("gc", channels=12, ratio=2, heads=heads, dims=dims)
    flat, size = x.flatten(2), 12 // heads
    contexts, attention = [], []
    for h in range(heads):
        part = flat[:, h * size : (h + 1) * size]
        weights = softmax(linear(block, "context.pool.key", part)[:, 0])
        attention.append(weights.view(2, *SIDES[dims]))
        contexts.append(torch.einsum("np,ncp->nc", weights, part))
    assert_equal_within(block.context(x).flatten(1), torch.cat(contexts, 1), torch.float64)
    assert_equal_within(block.context.attention(x), torch.stack(attention, 1), torch.float64)
    average = build_block("gc", channels=12, ratio=2, pooling="average", dims=dims).double()
    average.load_state_dict({key: tensor for key, tensor in block.state_dict().items() if "context" not in key})
    expected = x + average.add.transform(torch.cat(contexts, 1).view(2, 12, *[1] * dims))
    assert_equal_within(block(x), expected, torch.float64)


def test_one_head_is_the_plain_block() -> None:
    assert (
        build_block("gc", channels=64, heads=1).state_dict().keys()
        == build_block("gc", channels=64).state_dict().keys()
    )


@every_dims
def test_gc_eca_adds_the_pooled_channels_filtered(dims: int) -> None:
    block, x = block_and_map("gc_eca", dims=dims, kernel_size=3)
    context, weight = pooled(block, x.flatten(2)), block.get_parameter("add.transform.weight")
    term = weight[1] * context
    term[:, 1:] += weight[0] * context[:, :-1]
    term[:, :-1] += weight[2] * context[:, 1:]
    assert_equal_within(block(x).flatten(2), x.flatten(2) + term.unsqueeze(-1), torch.float64)


@every_dims
def test_gc_affine_adds_the_pooled_channels_normalized(dims: int) -> None:
    block, x = block_and_map("gc_affine", dims=dims, norm_eps=1e-3)
    norm = nn.LayerNorm(6, eps=1e-3).double()
    norm.load_state_dict({name: block.state_dict()[f"add.transform.1.{name}"] for name in ("weight", "bias")})
    expected = x.flatten(2) + norm(pooled(block, x.flatten(2))).unsqueeze(-1)
    assert_equal_within(block(x).flatten(2), expected, torch.float64)


def test_gc_eca_and_gc_affine_have_the_parameters_of_the_reference_table() -> None:
    places = [512] * 4 + [1024] * 6 + [2048] * 3  # c3 to c5 of ResNet-50
    for name, thousands in (("gc_eca", 14.4), ("gc_affine", 43.0)):
        with torch.device("meta"):
            blocks = [build_block(name, channels=channels) for channels in places]
        total = sum(parameter.numel() for block in blocks for parameter in block.parameters())
        assert round(total / 1e3, 1) == thousands
