"""The parts that the blocks beyond the paper are made of, where a whole block does not show what they do."""

import math
import pickle

import pytest
import torch
from torch import Tensor, nn

from gcnet.framework import (
    AttentionPool,
    AveragePool,
    Branch,
    ChannelAffine,
    ChannelFilter,
    ContextBlock,
    DoubledScale,
    HalvingFilter,
    HardScale,
    LocalAverage,
    NormPool,
    Pointwise,
    ResidualScale,
    Scale,
    Standardize,
    StylePool,
    SubSample,
)
from tolerances import assert_equal_within


def test_transforms_of_channels_act_at_every_position_alone() -> None:
    context = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    parts = [Standardize(2), ChannelFilter(3).double(), ChannelAffine(6, weight=3, bias=7).double()]
    for part in parts:
        whole = part(context)
        for i in range(3):
            for j in range(5):
                alone = part(context[:, :, i : i + 1, j : j + 1])
                assert_equal_within(whole[:, :, i : i + 1, j : j + 1], alone, torch.float64, repr(part))


def test_standardizing_small_differences_of_large_means_works_in_half_precision() -> None:
    context = (1000 + torch.arange(8.0)).view(1, 8, 1).half()
    expected = torch.nn.functional.layer_norm(context.double().flatten(1), (8,)).view(1, 8, 1)
    assert_equal_within(Standardize()(context), expected, torch.float16)


@pytest.mark.parametrize(
    ("fusion", "at_zero", "highest"),
    [(Scale(), 0.5, 1), (DoubledScale(), 1, 2), (HardScale(doubled=False), 0.5, 1), (HardScale(doubled=True), 1, 2)],
    ids=repr,
)
def test_gates_at_zero_and_at_their_ends(fusion: nn.Module, at_zero: float, highest: float) -> None:
    x = torch.randn(1, 3, 5, 7)
    term = torch.tensor([0.0, 200.0, -200.0]).view(1, 3, 1, 1)
    y = fusion(x, term)
    assert torch.equal(y[:, 0], at_zero * x[:, 0])
    assert torch.equal(y[:, 1], highest * x[:, 1])
    assert torch.equal(y[:, 2].abs(), torch.zeros_like(x[:, 2]))


def test_scaling_by_one_and_a_small_term_is_not_rounded_to_no_term_at_all_in_bfloat16() -> None:
    x, term = torch.full((1, 1, 4096), 1.0).bfloat16(), torch.full((1, 1, 1), 0.006).bfloat16()
    assert ResidualScale()(x, term)[0, 0, 0].item() == torch.tensor(1.006).bfloat16().item()
    assert torch.equal(ResidualScale()(x, torch.zeros(1, 1, 1)), x)


def test_fusions_bring_a_wider_term_to_the_map_s_dtype() -> None:
    x, term = torch.randn(1, 3, 5).bfloat16(), torch.randn(1, 3, 1)
    for fusion in (DoubledScale(), HardScale(doubled=True), ResidualScale()):
        assert fusion(x, term).dtype == torch.bfloat16


def test_norm_of_65536_large_positions_does_not_overflow_in_half_precision() -> None:
    x = torch.full((1, 1, 256, 256), 300.0).half()
    for eps in (0.0, 1e-5):
        assert NormPool(eps=eps)(x).item() == pytest.approx(300 * 256, rel=1e-3)


def test_norm_of_a_silent_channel_has_a_finite_gradient() -> None:
    for eps in (0.0, 1e-5):
        x = torch.zeros(1, 1, 3, 5, requires_grad=True)
        norm = NormPool(eps=eps)(x)
        norm.sum().backward()
        assert norm.item() == pytest.approx(math.sqrt(eps))
        assert x.grad is not None and torch.equal(x.grad, torch.zeros_like(x))


def test_style_of_one_position_or_a_constant_channel_has_no_deviation_and_a_finite_gradient() -> None:
    for sides in ((1, 1), (3, 5)):
        x = torch.full((2, 3, *sides), 7.0, requires_grad=True)
        style = StylePool()(x)
        style.sum().backward()
        assert style.flatten(1).tolist() == [[7.0] * 3 + [0.0] * 3] * 2
        assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("extent", [1, 2, 3])
def test_local_average_of_three_axes_equals_pytorch_s_where_that_works(extent: int) -> None:
    x = torch.randn(2, 3, 7, 11, 13, dtype=torch.float64)
    kernel, padding = 2 * extent - 1, extent - 1
    expected = torch.nn.functional.avg_pool3d(x, kernel, extent, padding, count_include_pad=False)
    assert_equal_within(LocalAverage(extent)(x), expected, torch.float64)


def test_parts_are_no_layers_that_a_network_initializes_again_and_can_be_reset() -> None:
    layers = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    parts = [ChannelFilter(3, initialize=nn.init.zeros_), ChannelAffine(3, weight=0, bias=1)]
    for part in parts:
        assert not isinstance(part, layers)
        start = {name: tensor.clone() for name, tensor in part.state_dict().items()}
        for each in (part, pickle.loads(pickle.dumps(part))):
            for parameter in each.parameters():
                nn.init.constant_(parameter, 7)
            each.reset_parameters()
            assert all(torch.equal(tensor, start[name]) for name, tensor in each.state_dict().items())


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_starts_of_filters_are_pytorch_s(dims: int) -> None:
    bound = 3 ** (-dims / 2)
    weight = HalvingFilter(501, dims=dims).weight
    assert weight.abs().max().item() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    draws = torch.stack([ChannelFilter(5).weight.detach() for _ in range(400)])
    assert draws.abs().max().item() <= 5**-0.5
    assert draws.std().item() == pytest.approx((5 * 3) ** -0.5, rel=0.05)


def test_parts_compose_with_those_of_the_paper() -> None:
    branches = {"scale": Branch(ChannelFilter(3), DoubledScale()), "add": Branch(Pointwise(4, 4), ResidualScale())}
    for context in (AveragePool(), AttentionPool(4), NormPool(), LocalUpsampled()):
        block = ContextBlock(context, branches, channels=4)
        x = torch.randn(2, 4, 5, 7)
        assert block(x).shape == x.shape


class LocalUpsampled(nn.Module):
    """A context of the user's own, for every query."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(SubSample()(x), size=x.shape[2:])
