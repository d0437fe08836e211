"""Frequencies and gathering, equal to their formulas as loops, to PyTorch's layers, and where it works to timm's."""

import math
from collections.abc import Iterator

import pytest
import torch
from timm.layers import GatherExcite
from torch import Tensor, nn

from gcnet.blocks import build_block
from gcnet.framework.pooling_contexts import TOP_FREQUENCIES, FrequencyPool
from random_weights import randomize
from tolerances import assert_equal_within


@pytest.fixture(autouse=True)
def built_in_float64() -> Iterator[None]:
    """The cosines, too, are made in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def excite(block: nn.Module, context: Tensor, prefix: str) -> Tensor:
    """SE's bottleneck over the channels, the second axis."""
    state = {key.removeprefix(f"{prefix}."): tensor for key, tensor in block.state_dict().items()}
    columns = context.movedim(1, -1)
    hidden = (columns @ state["reduce.weight"].T + state["reduce.bias"]).clamp(min=0)
    return (hidden @ state["expand.weight"].T + state["expand.bias"]).movedim(-1, 1)


def wave(frequency: int, position: int, size: int) -> float:
    root = math.sqrt((2 if frequency else 1) / size)
    return root * math.cos(math.pi * frequency * (position + 0.5) / size)


@pytest.mark.parametrize(("grid", "sides"), [(7, (7, 7)), (14, (14, 14)), (7, (14, 21))], ids=str)
def test_fca_sums_each_group_of_channels_against_its_cosine(grid: int, sides: tuple[int, int]) -> None:
    block = randomize(build_block("fca", channels=8, ratio=2, frequencies=4, grid=grid))
    x = torch.randn(2, 8, *sides)
    # A map that the grid divides is averaged over equal rectangles.
    pooled = x.view(2, 8, grid, sides[0] // grid, grid, sides[1] // grid).mean((3, 5))
    context = torch.zeros(2, 8)
    for c in range(8):
        u, v = ((0, 0), (0, 1), (6, 0), (0, 5))[c // 2]
        for h in range(grid):
            for w in range(grid):
                factor = wave(u * grid // 7, h, grid) * wave(v * grid // 7, w, grid)
                context[:, c] += pooled[:, c, h, w] * factor
    gate = excite(block, context, "scale.transform").sigmoid()
    assert_equal_within(block(x), x * gate[..., None, None], torch.float64)


def test_frequencies_are_the_authors_thirty_two_different_ones_of_a_7_by_7_grid() -> None:
    assert len(set(TOP_FREQUENCIES)) == len(TOP_FREQUENCIES) == 32
    assert {frequency for pair in TOP_FREQUENCIES for frequency in pair} <= set(range(7))
    assert TOP_FREQUENCIES[0] == (0, 0)


@pytest.mark.parametrize("grid", [7, 14])
def test_cosines_are_orthonormal(grid: int) -> None:
    basis = FrequencyPool(32, grid=grid, dims=2).basis
    assert_equal_within(basis @ basis.T, torch.eye(32), torch.float64)


def test_with_one_frequency_the_context_is_the_mean_times_the_grid() -> None:
    x = torch.randn(2, 3, 14, 7)
    context = FrequencyPool(1, grid=7, dims=2)(x)
    assert_equal_within(context, 7 * x.mean((2, 3), keepdim=True), torch.float64)


def test_other_numbers_of_axes_equal_the_2d_block_without_the_extra_axis() -> None:
    x = torch.randn(2, 8, 3, 9, 11)
    plane, volume, line = (FrequencyPool(4, grid=7, dims=dims) for dims in (2, 3, 1))
    assert_equal_within(volume(x).flatten(1), plane(x.mean(2)).flatten(1), torch.float64)
    basis = [[wave(v, w, 7) for w in range(7)] for v in (0, 1, 0, 5)]
    assert_equal_within(line.basis, torch.tensor(basis), torch.float64)


def test_frequencies_take_no_place_in_files_and_follow_the_dtype() -> None:
    block = build_block("fca", channels=16)
    assert not any("basis" in key for key in block.state_dict())
    assert block.bfloat16().get_buffer("context.basis").dtype == torch.bfloat16


@pytest.mark.parametrize("extent", [0, 2, 4, 8])
def test_gathering_by_average_equals_timm_s(extent: int) -> None:
    x = torch.randn(2, 3, 11, 13)
    # With parameters, timm 1.0.31's does not build: it passes the names of device and dtype as arguments.
    reference = GatherExcite(3, extent=extent, use_mlp=False)
    assert_equal_within(build_block("ge", channels=3, extent=extent)(x), reference(x), torch.float64)


@pytest.mark.parametrize("sides", [(13,), (5, 7), (3, 5, 7), (1, 2, 1)], ids=str)
@pytest.mark.parametrize("extent", [1, 2, 3, 4])
def test_gathering_averages_positions_within_the_extent(extent: int, sides: tuple[int, ...]) -> None:
    block = build_block("ge", channels=2, extent=extent, dims=len(sides))
    x = torch.randn(1, 2, *sides)
    gathered = [-(-side // extent) for side in sides]
    gate = torch.zeros_like(x)
    for position in torch.cartesian_prod(*map(torch.arange, sides)).view(-1, len(sides)).tolist():
        center = [p * count // side * extent for p, count, side in zip(position, gathered, sides, strict=True)]
        window = [slice(max(c - extent + 1, 0), c + extent) for c in center]
        near = x[(slice(None), slice(None), *window)].flatten(2).mean(2)
        gate[(slice(None), slice(None), *position)] = near.sigmoid()
    assert_equal_within(block(x), x * gate, torch.float64)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("with_excite", [False, True], ids=["gather", "gather-excite"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_gathering_depthwise_equals_pytorch_s_layers(dims: int, with_excite: bool, training: bool) -> None:
    convolution, norm = {
        1: (nn.Conv1d, nn.BatchNorm1d),
        2: (nn.Conv2d, nn.BatchNorm2d),
        3: (nn.Conv3d, nn.BatchNorm3d),
    }[dims]
    block = build_block("ge", channels=4, extent=4, gather="depthwise", excite=with_excite, ratio=2, dims=dims)
    randomize(block).train(training)
    layers = [
        convolution(4, 4, 3, stride=2, padding=1, groups=4, bias=False),
        norm(4),
        nn.ReLU(),
        convolution(4, 4, 3, stride=2, padding=1, groups=4, bias=False),
        norm(4),
        nn.ReLU() if with_excite else nn.Identity(),
    ]
    reference = nn.Sequential(*layers).train(training)
    reference.load_state_dict({key: block.state_dict()[f"context.gather.{key}"] for key in reference.state_dict()})
    x = torch.randn(2, 4, *(9, 11, 13)[-dims:])
    context = reference(x)
    context = excite(block, context, "context.excite") if with_excite else context
    gate = nn.functional.interpolate(context, size=x.shape[2:], mode="nearest").sigmoid()
    assert_equal_within(block(x), x * gate, torch.float64)


def test_exciting_before_spreading_is_exciting_after_it() -> None:
    block = randomize(build_block("ge", channels=4, extent=2, excite=True, ratio=2))
    x = torch.randn(2, 4, 9, 11)
    spread = build_block("ge", channels=4, extent=2).context(x)
    assert_equal_within(block(x), x * excite(block, spread, "context.excite").sigmoid(), torch.float64)


def test_global_gathering_with_exciting_is_squeeze_and_excitation() -> None:
    se, ge = randomize(build_block("se", channels=8, ratio=2)), build_block("ge", channels=8, ratio=2, excite=True)
    ge.load_state_dict(se.state_dict())
    x = torch.randn(2, 8, 5, 7)
    assert torch.equal(ge(x), se(x))
