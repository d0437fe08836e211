"""The named blocks as they start: the identity, whatever their base initializes, and able to learn."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn

from named_blocks import IDENTITY, NON_LOCAL, SIDES, every_dims, every_identity, make


@every_dims
@every_identity
def test_new_block_is_the_identity_bit_for_bit(name: str, dims: int) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        block, x = make(name, dims=dims).to(dtype), torch.randn(2, 22, *SIDES[dims]).to(dtype)
        for mode in (True, False):
            assert torch.equal(block.train(mode)(x), x), dtype


def torchvision_s_loop(network: nn.Module) -> None:
    """As in torchvision.models.resnet.ResNet.__init__."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.constant_(module.weight, 1)
            nn.init.constant_(module.bias, 0)


def loop_over_convolutions_and_linears_of_any_axes(network: nn.Module) -> None:
    """As in timm's and torchvision's other networks."""
    for module in network.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.constant_(module.bias, 0.1)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def class_names_as_in_dcgan(network: nn.Module) -> None:
    for module in network.modules():
        name = type(module).__name__
        if "Conv" in name or "Linear" in name:
            if hasattr(module, "weight"):
                nn.init.normal_(module.weight, 0.0, 0.02)
        elif "BatchNorm" in name:
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


def timm_s_own(network: nn.Module) -> None:
    network.init_weights()  # ty: ignore[call-non-callable]


def reset_of_every_module(network: nn.Module) -> None:
    for module in network.modules():
        if callable(getattr(module, "reset_parameters", None)):
            module.reset_parameters()


@pytest.mark.parametrize(
    "initialize",
    [
        torchvision_s_loop,
        loop_over_convolutions_and_linears_of_any_axes,
        class_names_as_in_dcgan,
        timm_s_own,
        reset_of_every_module,
    ],
    ids=lambda function: function.__name__,
)
def test_blocks_are_still_the_identity_after_the_network_initializes_all_weights(
    initialize: Callable[[nn.Module], None],
) -> None:
    base = timm.create_model("resnet10t", num_classes=3)
    base.layer1.contexts = nn.ModuleDict({name: make(name) for name in IDENTITY})
    initialize(base)
    x = torch.randn(2, 22, 5, 7)
    for name, block in base.layer1.contexts.items():
        for mode in (True, False):
            assert torch.equal(block.train(mode)(x), x), name


@pytest.mark.parametrize("name", ["gc scale", "gc both"])
def test_new_gc_with_scale_halves_the_map_as_published(name: str) -> None:
    x = torch.randn(2, 22, 5, 7)
    assert torch.equal(make(name)(x), x / 2)


@pytest.mark.parametrize("name", [f"{name} batch" for name in NON_LOCAL])
def test_normalized_block_starts_at_zero_by_gamma_alone_so_that_it_can_leave(name: str) -> None:
    state = make(name).state_dict()
    assert state["add.transform.1.weight"].eq(0).all()
    assert state["add.transform.0.weight"].ne(0).any()


@every_identity
def test_new_block_learns_from_its_start(name: str) -> None:
    block = make(name).double()
    x = torch.randn(2, 22, 5, 7, dtype=torch.float64)
    (block(x) * torch.randn_like(x)).sum().backward()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter -= 0.1 * parameter.grad
    assert (block(x) - x).abs().mean() > 1e-3
