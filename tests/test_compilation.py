"""Networks compiled in place."""

import copy

import pytest
import torch
from torch import nn

from gcnet.blocks import build_block
from gcnet.compilation import compile_network, explained_compile_errors, is_compiled, uncompiled
from gcnet.errors import UserError


def small_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), build_block("gc", channels=8, ratio=2))


def test_a_compiled_network_has_the_same_state_dict_keys_and_copies_are_not_compiled() -> None:
    network = small_network()
    keys = list(network.state_dict())
    compile_network(network)
    assert is_compiled(network)
    assert list(network.state_dict()) == keys
    assert not is_compiled(copy.deepcopy(network))


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
def test_hooks_that_are_added_after_compilation_are_called_without_it() -> None:
    network, calls = small_network(), []
    compile_network(network)
    images = torch.randn(2, 3, 8, 8)
    compiled = network(images)
    network[1].register_forward_hook(lambda *_: calls.append(1))
    network(images)
    assert not calls
    with uncompiled(network):
        torch.testing.assert_close(network(images), compiled)
    assert calls


@pytest.mark.usefixtures("unchecked_shapes")
def test_an_error_of_compilation_is_one_sentence() -> None:
    network = nn.Linear(3, 3)

    def fails(*_: object) -> None:
        raise RuntimeError("no C++ compiler")

    network.compile(backend=fails)
    expected = r"^torch.compile failed \(RuntimeError: no C\+\+ compiler\); run without `compile`"
    with pytest.raises(UserError, match=expected), explained_compile_errors():
        network(torch.randn(2, 3))


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError), explained_compile_errors():
        raise ZeroDivisionError
