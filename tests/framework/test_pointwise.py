"""The pointwise layer is a 1x1 convolution for any number of axes, and keeps its start."""

import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from gcnet.framework.pointwise import Pointwise, kaiming_normal, normal, uniform, zero
from tolerances import assert_equal_within

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
SIDES = {1: (13,), 2: (5, 7), 3: (3, 5, 7)}
STARTS = [uniform, kaiming_normal, normal, zero]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_equals_pytorch_s_convolution_of_size_one(dims: int) -> None:
    layer = Pointwise(11, 5).double()
    convolution = CONVOLUTIONS[dims](11, 5, 1).double()
    with torch.no_grad():
        convolution.weight.copy_(layer.weight.view(5, 11, *[1] * dims))
        assert convolution.bias is not None
        convolution.bias.copy_(layer.bias)
    x = torch.randn(2, 11, *SIDES[dims], dtype=torch.float64)
    assert torch.equal(layer(x), convolution(x))


def test_equals_the_sum_over_channels_at_every_position() -> None:
    layer = Pointwise(3, 2).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    expected = torch.zeros(2, 2, 5, dtype=torch.float64)
    for n, out, j in torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(5)).tolist():
        expected[n, out, j] = layer.bias[out] + sum(layer.weight[out, c] * x[n, c, j] for c in range(3))
    assert_equal_within(layer(x), expected, torch.float64)


def test_weights_are_matrices_whatever_the_axes() -> None:
    assert {name: tuple(tensor.shape) for name, tensor in Pointwise(11, 5).state_dict().items()} == {
        "weight": (5, 11),
        "bias": (5,),
    }


def test_it_is_no_layer_that_a_network_initializes_again() -> None:
    layer = Pointwise(11, 5)
    assert not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.modules.conv._ConvNd))


@pytest.mark.parametrize(
    ("initialize", "deviation", "bias_deviation"),
    [
        (uniform, (3 * 211) ** -0.5, (3 * 211) ** -0.5),  # of a uniform variable within 1/sqrt(211)
        (kaiming_normal, (2 / 211) ** 0.5, 0.0),
        (normal, 0.01, 0.0),
        (zero, 0.0, 0.0),
    ],
    ids=["uniform", "kaiming_normal", "normal", "zero"],
)
def test_starts_have_their_published_spread(
    initialize: Callable[[Pointwise], None], deviation: float, bias_deviation: float
) -> None:
    layer = Pointwise(211, 509, initialize=initialize)
    assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert layer.bias.std().item() == pytest.approx(bias_deviation, rel=0.1)
    assert layer.weight.mean().item() == pytest.approx(0, abs=0.02 * deviation)


@pytest.mark.parametrize("initialize", STARTS, ids=lambda start: start.__name__)
def test_reset_returns_to_the_same_start_also_after_pickling(initialize: Callable[[Pointwise], None]) -> None:
    torch.manual_seed(7)
    layer = Pointwise(11, 5, initialize=initialize)
    start = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    copy = pickle.loads(pickle.dumps(layer))
    for each in (layer, copy):
        nn.init.ones_(each.weight)
        torch.manual_seed(7)
        each.reset_parameters()
        assert all(torch.equal(tensor, start[name]) for name, tensor in each.state_dict().items())


def test_channels_last_stays_channels_last() -> None:
    x = torch.randn(2, 11, 5, 7).to(memory_format=torch.channels_last)
    assert Pointwise(11, 3)(x).is_contiguous(memory_format=torch.channels_last)
