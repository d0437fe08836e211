"""Attention of the modules of timm, torchvision, torch and mmcv, judged by what the modules compute from it."""

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from analysis.captured import captured, heads_times_values
from random_weights import randomize
from tolerances import assert_equal_within


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
