"""Copies of networks whose modules hold computed tensors, and of those that cannot be copied."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from gcnet.analysis.cost import count_flops
from gcnet.analysis.simplification import replace_blocks
from gcnet.errors import UserError
from gcnet.insertion import insert
from gcnet.insertion.fuse import fuse
from gcnet.insertion.model_copies import deep_copy
from gcnet.models.outputs import check_classifier
from gcnet.training.optimizer import build_average


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


def pruned(model: nn.Sequential) -> None:
    prune.l1_unstructured(model[0], "weight", amount=0.5)


def weight_normalized(model: nn.Sequential) -> None:
    nn.utils.weight_norm(model[0])


def keeping(model: nn.Sequential) -> None:
    """Every forward pass keeps its activations in a list."""
    kept: list[Tensor] = []
    model[0].kept = kept
    model[0].register_forward_hook(lambda layer, _, output: layer.kept.append(output))
    model(torch.randn(2, 3, 8, 8))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("change", [pruned, weight_normalized, keeping])
@pytest.mark.parametrize("copy", [deep_copy, fuse, lambda model: build_average(model, 0.9).module])
def test_a_copy_computes_the_same_and_follows_its_own_weights(
    copy: Callable[[nn.Module], nn.Module], change: Callable[[nn.Module], None]
) -> None:
    model = small()
    change(model)
    model.eval()
    copied = copy(model).eval()
    x = torch.randn(2, 3, 8, 8)
    before = model(x).detach()
    torch.testing.assert_close(copied(x), before, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(-2)
    assert (copied(x) - before).abs().max() > 0.1
    assert torch.equal(model(x), before)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("change", [pruned, weight_normalized, keeping])
def test_changed_networks_have_the_flops_of_the_plain_one(change: Callable[[nn.Module], None]) -> None:
    model = small()
    change(model)
    assert count_flops(model, (1, 3, 8, 8)) == count_flops(small(), (1, 3, 8, 8))


@pytest.mark.parametrize(
    "use",
    [
        deep_copy,
        fuse,
        lambda model: build_average(model, 0.9),
        lambda model: count_flops(model, (1, 3, 8, 8)),
        lambda model: replace_blocks(model, {}, "snl"),
    ],
)
def test_a_network_that_cannot_be_copied_is_refused_in_a_sentence(use: Callable[[nn.Module], object]) -> None:
    model = small()
    model[0].lock = threading.Lock()
    with pytest.raises(UserError, match=r"the network must be copied, .* cannot pickle '_thread\.lock' object"):
        use(model)


def test_a_network_that_cannot_be_copied_is_a_classifier_and_gets_blocks() -> None:
    model = small()
    model[0].lock = threading.Lock()
    check_classifier(model, 8, 4)
    insert(model, "gc", at="0", ratio=2, example_input=torch.randn(1, 3, 8, 8))
    assert hasattr(model[0], "context")
