"""Captured attention, judged by what the network itself computes from it; hooks that are gone whatever happens."""

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import gcnet
from analysis.captured import captured, heads_times_values
from gcnet.analysis.attention import Attention, token_grid
from gcnet.analysis.capture import capture, describe_unread
from gcnet.analysis.readers import observed_weights
from gcnet.blocks import build_block
from gcnet.errors import UserError
from random_weights import randomize
from tolerances import assert_equal_within


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("name", ["gc", "snl"])
def test_a_block_with_one_map_leaves_the_weights_of_its_pooling(name: str) -> None:
    block = randomize(gcnet.build_block(name, channels=8, **({"ratio": 2} if name == "gc" else {})))
    x = torch.randn(2, 8, 5, 7)
    ((path, found),) = captured(nn.Sequential(block), x)
    assert (path, found.is_shared, found.grid, found.positions) == ("0", True, (5, 7), 35)
    context = torch.einsum("nhk,nck->nc", found.weights, x.flatten(2))
    assert_equal_within(context, block.context(x).flatten(1), torch.float32)
    assert_equal_within(found.map_of(3), found.weights.view(2, 5, 7), torch.float32)
    assert torch.equal(found.mean_map(), found.map_of(34))
    assert_equal_within(found.input, x.flatten(2).transpose(1, 2), torch.float32)
    assert_equal_within(found.added, (block(x) - x).flatten(2).transpose(1, 2), torch.float32)


@pytest.mark.parametrize("sub_sample", [False, True])
@pytest.mark.parametrize("name", ["nl_gaussian", "nl_embedded_gaussian", "nl_dot_product", "nl_concatenation"])
def test_a_non_local_block_leaves_a_row_for_each_query(name: str, sub_sample: bool) -> None:
    block = randomize(gcnet.build_block(name, channels=6, sub_sample=sub_sample))
    x = torch.randn(2, 6, 5, 7)
    ((_, found),) = captured(block, x)
    assert (found.grid, found.key_grid) == ((5, 7), (2, 3) if sub_sample else (5, 7))
    value = block.context.sub_sample(block.context.value(x)).flatten(2).transpose(1, 2)
    context = heads_times_values(found.weights, value).transpose(1, 2)
    assert_equal_within(context, block.context(x).flatten(2), torch.float32)
    assert_equal_within(found.map_of(11).flatten(1), found.weights[:, 0, 11], torch.float32)
    assert_equal_within(found.mean_map().flatten(1), found.weights[:, 0].mean(1), torch.float32)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_maps_of_any_number_of_axes_are_distinguished(dims: int) -> None:
    sides = (4, 3, 5)[:dims]
    x = torch.randn(2, 4, *sides)
    for name in ("snl", "nl_gaussian"):
        ((_, found),) = captured(gcnet.build_block(name, channels=4, dims=dims), x)
        assert (found.is_shared, found.grid, found.key_grid) == (name == "snl", sides, sides)
        assert found.map_of(2).shape == (2, *sides)


def test_every_block_that_was_inserted_is_captured_by_its_name() -> None:
    model = gcnet.create_model("cifar_resnet20")
    gcnet.insert(model, "nl_gaussian", stages=(2,))
    gcnet.insert(model, "gc", stages=(3,))
    found = captured(model.eval(), torch.randn(2, 3, 16, 16))
    names = [f"layer{stage}.{index}.context" for stage in (2, 3) for index in range(3)]
    assert [name for name, _ in found] == names
    assert [one.grid for _, one in found] == [(8, 8)] * 3 + [(4, 4)] * 3


def test_later_changes_in_place_do_not_reach_captured_maps() -> None:
    block = gcnet.build_block("snl", channels=3)
    x = torch.randn(1, 3, 4, 5)
    ((_, found),) = captured(nn.Sequential(block, nn.ReLU(inplace=True)), x.clone())
    assert torch.equal(found.input, x.flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    "build",
    [
        lambda: gcnet.build_block("se", channels=8, ratio=2),
        lambda: gcnet.build_block("gc", channels=8, ratio=2, fusion="scale"),
        lambda: timm.layers.SEModule(8),
        lambda: timm.layers.EcaModule(8),
        lambda: timm.layers.GlobalContext(8),
        lambda: torchvision.ops.SqueezeExcitation(8, 3),
    ],
    ids=["se", "gc scale", "timm se", "timm eca", "timm global context", "torchvision se"],
)
def test_captured_gates_are_the_factors_of_the_channels(build: Callable[[], nn.Module]) -> None:
    part = randomize(build()).eval()
    x = torch.rand(3, 8, 5, 7) + 0.5
    with torch.no_grad(), capture(part) as found:
        output = part(x)
    (one,) = found.gates
    assert_equal_within(one.weights, (output / x).mean((2, 3)), torch.float32)


class Own(nn.Module):
    """A block of the user's own, which puts its whole attention into one softmax."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.key = nn.Conv2d(channels, 1, 1)
        self.drop = nn.Dropout(0.5)

    def weights(self, x: Tensor) -> Tensor:
        return self.key(x).flatten(1).softmax(-1).view(len(x), *x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop((x * self.weights(x)[:, None]).sum((2, 3), keepdim=True))


def test_a_module_of_the_user_takes_a_short_adapter() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), Own(5))
    x = torch.randn(2, 3, 7, 11)
    assert captured(model, x) == []
    ((name, found),) = captured(model, x, adapters={Own: lambda module, x: module.weights(x)})
    assert (name, found.is_shared, found.grid) == ("1", True, (7, 11))
    assert_equal_within(found.map_of(0), model[1].weights(model[0](x)), torch.float32)
    assert_equal_within(observed_weights(model[1], model[0](x)).view(2, 7, 11), found.map_of(0), torch.float32)
    with pytest.raises(UserError, match="Conv2d cannot be observed: its forward calls neither softmax nor"):
        captured(model, x, adapters={nn.Conv2d: observed_weights})
    assert hooks(model) == 0


def test_fused_attention_with_masks_and_scales_has_the_weights_of_its_result() -> None:
    class Fused(nn.Module):
        def __init__(self, **options) -> None:
            super().__init__()
            self.options = options

        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(query, key, value, **self.options)

    query, key = torch.randn(2, 4, 5, 3), torch.randn(2, 2, 5, 3)
    mask = torch.rand(5, 5) > 0.3
    mask[:, 0] = True
    for options in ({"is_causal": True}, {"attn_mask": mask}, {"attn_mask": torch.randn(5, 5)}, {"scale": 0.7}):
        fused = Fused(enable_gqa=True, **options)
        unit = torch.eye(5).expand(2, 2, 5, 5)
        assert_equal_within(observed_weights(fused, query, key, unit), fused(query, key, unit), torch.float32)


def test_hooks_are_gone_after_an_error_and_after_a_normal_end() -> None:
    model = gcnet.create_model("gc_cifar_resnet20").eval()
    with capture(model):
        assert hooks(model) > 9
    assert hooks(model) == 0
    with pytest.raises(RuntimeError), capture(model) as found:
        model(torch.randn(1, 3, 16, 16, dtype=torch.float64))
    assert hooks(model) == 0
    assert found.attention == []

    def broken(_: Attention) -> None:
        raise KeyError("broken")

    with pytest.raises(KeyError), capture(model, keep=broken):
        model(torch.randn(1, 3, 16, 16))
    assert hooks(model) == 0
    assert not any(module.training for module in model.modules())
    assert len(captured(model, torch.randn(1, 3, 16, 16))) == 9


def test_capture_changes_nothing_in_training() -> None:
    def train(watched: bool) -> list[Tensor]:
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 1),
            gcnet.build_block("nl_gaussian", channels=8, normalization="batch"),
            Own(8),
            timm.layers.NonLocalAttn(8),
        ).train()
        x = torch.randn(2, 3, 5, 7)
        if watched:
            with capture(model, adapters={Own: observed_weights_of_map}) as found:
                model(x).square().mean().backward()
            assert len(found.attention) == 3
            assert not any(one.input.requires_grad or one.weights.requires_grad for _, one in found.attention)
        else:
            model(x).square().mean().backward()
        assert all(module.training for module in model.modules())
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        return [*gradients, *model.state_dict().values(), torch.rand(3)]

    def observed_weights_of_map(module: nn.Module, x: Tensor) -> Tensor:
        return observed_weights(module, x).view(len(x), *x.shape[2:])

    assert all(torch.equal(one, other) for one, other in zip(train(True), train(False), strict=True))


def test_keep_makes_the_attention_into_something_smaller() -> None:
    model = gcnet.create_model("gc_cifar_resnet20").eval()
    found = captured(model, torch.randn(2, 3, 16, 16), keep=lambda attention: attention.grid)
    assert [kept for _, kept in found] == [(16, 16)] * 3 + [(8, 8)] * 3 + [(4, 4)] * 3


@pytest.mark.parametrize(
    ("tokens", "extra", "image", "expected"),
    [
        (197, 1, (224, 224), (1, (14, 14))),
        (197, None, (224, 224), (1, (14, 14))),
        (198, None, (1, 1), (2, (14, 14))),
        (196, 1, (224, 224), (0, (14, 14))),
        (6 + 1, 1, (32, 48), (1, (2, 3))),
        (24, None, (64, 96), (0, (4, 6))),
        (31, None, (224, 224), (6, (5, 5))),
        (47, None, (224, 224), (0, (47,))),
    ],
)
def test_tokens_are_laid_out_as_the_image_is(
    tokens: int, extra: int | None, image: tuple[int, int], expected: tuple
) -> None:
    assert token_grid(tokens, extra, image) == expected


def test_the_gate_of_a_block_with_a_bias_is_its_factor_alone() -> None:
    block = build_block("grn", channels=8)
    with torch.no_grad():
        block.scale.fusion.bias.fill_(6.0)
    with capture(block) as found:
        block(torch.randn(2, 8, 5, 7))
    (gate,) = found.gates
    torch.testing.assert_close(gate.weights, torch.ones(2, 8))


def test_a_block_that_adds_has_no_gate() -> None:
    block = build_block("gc_slots", channels=8)
    with capture(block) as found:
        block(torch.randn(2, 8, 5, 7))
    assert found.gates == [] and len(found.attention) == 1


@pytest.mark.parametrize(
    ("name", "unread", "kinds"),
    [
        ("swinv2_cr_tiny_ns_224", ["stages.0.blocks.0.attn"], "WindowMultiHeadAttention"),
        ("pvt_v2_b0", ["stages.0.blocks.0.attn"], "Attention"),
        ("xcit_nano_12_p16_224", ["blocks.0.attn"], "XCA"),
    ],
)
def test_attention_that_cannot_be_read_is_named(name: str, unread: list[str], kinds: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    with capture(model.eval()) as found:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert found.attention == [] and list(found.unread)[: len(unread)] == unread
    sentence = describe_unread(model, found.unread)
    assert f" {kinds}" in sentence and "adapters=" in sentence and "\n" not in sentence


def test_attention_that_is_read_or_has_an_adapter_is_not_named() -> None:
    model = timm.create_model("test_vit").eval()
    with capture(model) as found:
        model(torch.zeros(1, 3, 160, 160))
    assert found.attention and not found.unread and describe_unread(model, found.unread) == ""
