"""Captured attention, judged by what the network itself computes from it; hooks that are gone whatever happens."""

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import gcnet
from gcnet.analysis.attention import Attention, token_grid
from gcnet.analysis.capture import capture, describe_unread
from gcnet.analysis.readers import observed_weights
from gcnet.blocks import build_block
from gcnet.errors import UserError
from random_weights import randomize
from tolerances import assert_equal_within


def captured(model: nn.Module, images: Tensor, **options) -> list[tuple[str, Attention]]:
    with torch.no_grad(), capture(model, **options) as found:
        model(images)
    return found.attention


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def heads_times_values(weights: Tensor, values: Tensor) -> Tensor:
    """(N, heads, P, K) and (N, K, heads * d) -> (N, P, heads * d), head by head."""
    parts = values.chunk(weights.shape[1], dim=-1)
    return torch.cat([weights[:, head] @ part for head, part in enumerate(parts)], dim=-1)


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


def vit(**options) -> nn.Module:
    return randomize(timm.create_model("vit_tiny_patch16_224", img_size=(32, 48), depth=2, num_classes=5, **options))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("options", [{}, {"reg_tokens": 4}, {"class_token": False, "global_pool": "avg"}])
def test_the_attention_of_timms_vit_is_captured_whether_fused_or_not(fused: bool, options: dict) -> None:
    model = vit(qk_norm=True, **options).eval()
    for block in model.blocks:
        block.attn.fused_attn = fused
    found = captured(model, torch.randn(2, 3, 32, 48))
    assert [name for name, _ in found] == ["blocks.0.attn", "blocks.1.attn"]
    for block, (_, one) in zip(model.blocks, found, strict=True):
        assert (one.grid, one.extra, one.weights.shape[1]) == ((2, 3), model.num_prefix_tokens, 3)
        assert block.attn.fused_attn is fused
        assert one.map_of(5).shape == one.mean_map().shape == (2, 2, 3)
        kept: list[Tensor] = []
        block.attn.register_forward_pre_hook(lambda _, arguments, kept=kept: kept.append(arguments[0]))
        with torch.no_grad():
            model.forward_features(torch.randn(2, 3, 32, 48))
            ((_, again),) = captured(block.attn, kept[0])
            value = block.attn.qkv(kept[0]).chunk(3, dim=-1)[2]
            expected = block.attn.proj(heads_times_values(again.weights, value))
            assert_equal_within(expected, block.attn(kept[0]), torch.float32)


def test_deit_with_two_extra_tokens_keeps_the_grid() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=48, depth=1).eval()
    ((name, found),) = captured(model, torch.randn(1, 3, 48, 48))
    assert (name, found.extra, found.grid) == ("blocks.0.attn", 2, (3, 3))


@pytest.mark.parametrize("size", [(56, 56), (44, 60)], ids=["whole windows", "padded windows"])
def test_the_windows_of_swin_lie_where_the_network_puts_them(size: tuple[int, int]) -> None:
    options = {"img_size": size, "window_size": 4, "embed_dim": 12, "depths": (2,), "num_heads": (3,)}
    model = randomize(timm.create_model("swin_tiny_patch4_window7_224", **options)).eval()
    found = captured(model, torch.randn(2, 3, *size))
    assert [name for name, _ in found] == ["layers.0.blocks.0", "layers.0.blocks.1"]
    for block, (_, one) in zip(model.layers[0].blocks, found, strict=True):
        height, width = one.grid
        assert (height, width) == (size[0] // 4, size[1] // 4)
        x = block.norm1(one.input.view(2, height, width, -1))
        value = block.attn.qkv(x).chunk(3, dim=-1)[2].flatten(1, 2)
        padding = block.attn.qkv.bias.chunk(3)[2]  # the value of a padded position, which is given zeros
        values = torch.cat([value, padding.expand(2, 1, -1)], dim=1)
        mixed = torch.zeros_like(value)
        for window, positions in enumerate(one.windows):
            rows = heads_times_values(one.weights[:, window], values[:, positions])
            mixed[:, positions[positions >= 0]] = rows[:, positions >= 0]
        assert_equal_within(block.attn.proj(mixed), one.added, torch.float32)
        rows = torch.stack([one.map_of(query) for query in range(one.positions)])
        assert_equal_within(rows.mean(0), one.mean_map(), torch.float32)
        assert sum(group.shape[2] for group in one.groups()) == one.positions


def test_the_attention_of_torchvisions_vit_is_captured() -> None:
    model = randomize(torchvision.models.VisionTransformer(32, 8, 2, 4, 8, 16)).eval()
    found = captured(model, torch.randn(2, 3, 32, 32))
    assert [(one.grid, one.extra, one.weights.shape[1]) for _, one in found] == [((4, 4), 1, 4)] * 2
    layer = model.encoder.layers[0]
    x = torch.randn(2, 17, 8)
    ((_, one),) = captured(layer, x)
    normed = layer.ln_1(x)
    _, expected = layer.self_attention(normed, normed, normed, average_attn_weights=False)
    assert_equal_within(one.weights, expected, torch.float32)


@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_encoder_layer_is_captured_in_spite_of_its_fast_path(batch_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first).eval()
    x = torch.randn(3, 9, 8)
    ((name, found),) = captured(layer, x if batch_first else x.transpose(0, 1))
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    attention.load_state_dict(layer.self_attn.state_dict())
    _, expected = attention(x, x, x, average_attn_weights=False)
    assert name == "self_attn"
    assert_equal_within(found.weights, expected, torch.float32)
    assert found.grid == (3, 3)
    assert_equal_within(found.input, x, torch.float32)


def test_timms_global_context_leaves_its_softmax() -> None:
    model = randomize(timm.create_model("gcresnet50t", num_classes=3)).eval()
    found = captured(model, torch.randn(2, 3, 64, 64))
    assert [name for name, _ in found] == [
        name for name, part in model.named_modules() if isinstance(part, timm.layers.GlobalContext)
    ]
    block = randomize(timm.layers.GlobalContext(8, fuse_add=True, fuse_scale=False)).eval()
    ((_, one),) = captured(block, torch.randn(2, 8, 5, 7))
    context = torch.einsum("nhk,nkc->nc", one.weights, one.input)
    expected = block.mlp_add(context[..., None, None]).flatten(2).transpose(1, 2).expand(-1, 35, -1)
    assert_equal_within(one.added, expected, torch.float32)


def test_timms_non_local_is_captured() -> None:
    block = randomize(timm.layers.NonLocalAttn(8)).eval()
    x = torch.randn(2, 8, 3, 5)
    ((_, found),) = captured(block, x)
    mixed = (found.weights[:, 0] @ block.g(x).flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(-1, (3, 5))
    expected = block.norm(block.z(mixed)).flatten(2).transpose(1, 2)
    assert_equal_within(found.added, expected, torch.float32)


@pytest.mark.parametrize("sub_sample", [False, True])
@pytest.mark.parametrize("mode", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
def test_mmcvs_non_local_block_is_captured(mode: str, sub_sample: bool) -> None:
    from mmcv.cnn.bricks import NonLocal2d

    block = randomize(NonLocal2d(6, mode=mode, sub_sample=sub_sample)).eval()
    x = torch.randn(2, 6, 5, 7)
    ((_, found),) = captured(block, x)
    mixed = (found.weights[:, 0] @ block.g(x).flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(-1, (5, 7))
    assert_equal_within(found.added, block.conv_out(mixed).flatten(2).transpose(1, 2), torch.float32)
    assert mode not in vars(block)


def test_a_module_that_resembles_a_block_is_ignored() -> None:
    class Mask(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_mask = nn.Conv2d(6, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv_mask(x)

    assert captured(Mask(), torch.randn(2, 6, 5, 7)) == []


def test_mmcvs_context_block_is_captured() -> None:
    from mmcv.cnn.bricks import ContextBlock

    block = randomize(ContextBlock(6, 0.5)).eval()
    x = torch.randn(2, 6, 5, 7)
    ((_, found),) = captured(block, x)
    context = torch.einsum("nhk,nkc->nc", found.weights, found.input)
    assert_equal_within(context, block.spatial_pool(x).flatten(1), torch.float32)


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
