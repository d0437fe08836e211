"""Networks without random initialization."""

import pytest
import torch

import gcnet
from gcnet.models.uninitialized import Uninitialized


@pytest.mark.parametrize("name", ["gc_resnet18", "nl_cifar_resnet20", "timm/resnet10t", "torchvision/vit_b_32"])
def test_no_random_number_is_drawn_and_the_layers_are_the_same(name: str) -> None:
    expected = {key: value.shape for key, value in gcnet.create_model(name).state_dict().items()}
    state = torch.random.get_rng_state()
    with Uninitialized():
        model = gcnet.create_model(name)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {key: value.shape for key, value in model.state_dict().items()} == expected


def test_initialization_by_constants_and_results_of_random_functions_stay() -> None:
    with Uninitialized():
        norm, noise = torch.nn.BatchNorm2d(3), torch.rand(1000)
    assert torch.equal(norm.weight, torch.ones(3))
    assert 0.3 < float(noise.mean()) < 0.7


@pytest.mark.parametrize(("low", "high"), [(-2.0, 2.0), (0.1, 5.0)])
def test_a_truncated_distribution_is_within_its_range_whatever_was_in_memory(low: float, high: float) -> None:
    weight = torch.full((1000,), 7.0)
    with Uninitialized():
        torch.nn.init.trunc_normal_(weight, a=low, b=high)
    assert low <= float(weight.min()) <= float(weight.max()) <= high
