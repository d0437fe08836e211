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
