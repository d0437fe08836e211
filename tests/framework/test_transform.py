"""Transforms: LayerNorm over channels, batch normalization that starts at zero, and the bottleneck."""

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn

from gcnet.framework import BatchStandardization, Bottleneck, ChannelLayerNorm, Pointwise
from tolerances import assert_equal_within

SIDES = {1: (13,), 2: (5, 7), 3: (3, 5, 7)}
BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def randomized(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double()


def test_layer_norm_equals_timm_s_for_maps() -> None:
    ours, reference = randomized(ChannelLayerNorm(11, 1e-5)), LayerNorm2d(11, eps=1e-5).double()
    reference.load_state_dict(ours.state_dict())
    x = torch.randn(2, 11, 5, 7, dtype=torch.float64)
    assert_equal_within(ours(x), reference(x), torch.float64)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_layer_norm_of_a_pooled_map_equals_pytorch_s_over_all_its_axes(dims: int) -> None:
    ours, ones = randomized(ChannelLayerNorm(11, 1e-3)), [1] * dims
    reference = nn.LayerNorm([11, *ones], eps=1e-3).double()
    reference.load_state_dict({name: tensor.view(11, *ones) for name, tensor in ours.state_dict().items()})
    x = torch.randn(2, 11, *ones, dtype=torch.float64)
    assert_equal_within(ours(x), reference(x), torch.float64)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_batch_norm_equals_pytorch_s_in_values_and_statistics(dims: int, training: bool) -> None:
    ours, reference = (
        randomized(BatchStandardization(11)).train(training),
        BATCH_NORMS[dims](11).double().train(training),
    )
    reference.load_state_dict(ours.state_dict())
    for _ in range(2):
        x = torch.randn(3, 11, *SIDES[dims], dtype=torch.float64)
        assert_equal_within(ours(x), reference(x), torch.float64)
    for name, tensor in reference.state_dict().items():
        assert_equal_within(ours.state_dict()[name], tensor, torch.float64, name)


def test_batch_norm_starts_and_restarts_at_zero() -> None:
    norm = BatchStandardization(11)
    x = torch.randn(3, 11, 5, 7)
    assert torch.equal(norm(x), torch.zeros_like(x))
    nn.init.normal_(norm.weight)
    norm.reset_parameters()
    assert torch.equal(norm(x), torch.zeros_like(x))
    assert norm.num_batches_tracked is not None and norm.num_batches_tracked.item() == 1


def test_batch_norm_refuses_more_axes_than_it_knows() -> None:
    with pytest.raises(ValueError, match="up to 3 spatial axes, found 6 axes"):
        BatchStandardization(2)(torch.zeros(1, 2, 1, 1, 1, 1))


def test_bottleneck_equals_its_formula() -> None:
    bottleneck = randomized(Bottleneck(Pointwise(11, 5), ChannelLayerNorm(5, 1e-5), Pointwise(5, 7)))
    assert isinstance(bottleneck, Bottleneck)
    context = torch.randn(3, 11, dtype=torch.float64)
    hidden = context @ bottleneck.reduce.weight.T + bottleneck.reduce.bias
    centered = hidden - hidden.mean(1, keepdim=True)
    normalized = centered / (centered.square().mean(1, keepdim=True) + 1e-5).sqrt()
    normalized = normalized * bottleneck.norm.weight + bottleneck.norm.bias
    expected = normalized.clamp(min=0) @ bottleneck.expand.weight.T + bottleneck.expand.bias
    assert_equal_within(bottleneck(context[..., None, None]), expected[..., None, None], torch.float64)
