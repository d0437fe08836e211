"""Distances by layer, judged by the definitions on what the blocks themselves compute; and what is said about them."""

import math

import pytest
import timm
import torch
from torch import Tensor, nn

import gcnet
from gcnet.analysis.attention import Attention
from gcnet.analysis.query_independence import (
    bootstrap_interval,
    describe_dependence,
    gc_instead,
    is_independent,
    measure_distances,
    measure_layers,
)
from random_weights import randomize


def batches() -> list[Tensor]:
    return [torch.randn(3, 3, 5, 7), torch.randn(2, 3, 5, 7)]


def one_block(name: str, **options) -> nn.Module:
    return randomize(nn.Sequential(nn.Conv2d(3, 8, 1), gcnet.build_block(name, channels=8, **options))).eval()


@pytest.mark.parametrize("name", ["nl_gaussian", "nl_embedded_gaussian"])
def test_a_layer_has_the_distances_of_its_input_output_and_attention(name: str) -> None:
    model, images = one_block(name), batches()
    (layer,) = measure_layers(model, images)
    x = model[0](torch.cat(images))
    attention = model[1].context.attention(x)

    def positions(values: Tensor) -> Tensor:
        return values.flatten(2).transpose(1, 2)

    cosine = gcnet.analysis.average_cosine_distance
    assert (layer.name, layer.kind, layer.images, layer.grid) == ("1", "ContextBlock", 5, (5, 7))
    assert layer.input.mean == pytest.approx(cosine(positions(x)).mean().item())
    assert layer.added.mean == pytest.approx(cosine(positions(model[1](x) - x)).mean().item())
    assert layer.attention.mean == pytest.approx(cosine(attention).mean().item())
    assert layer.divergence.mean == pytest.approx(gcnet.analysis.average_jensen_shannon(attention).mean().item())
    assert layer.divergence_error == 0
    assert layer.input.low < layer.input.mean < layer.input.high


@pytest.mark.parametrize("name", ["nl_dot_product", "nl_concatenation"])
def test_weights_that_are_no_distribution_have_no_divergence(name: str) -> None:
    (layer,) = measure_layers(one_block(name), batches())
    assert layer.divergence is None
    assert layer.attention.mean > 0


def test_one_map_for_all_is_at_distance_zero_and_adds_the_same_everywhere() -> None:
    (layer,) = measure_layers(one_block("snl"), batches())
    assert layer.is_shared
    assert (layer.attention.mean, layer.divergence.mean) == (0, 0)
    assert layer.added.mean == pytest.approx(0, abs=1e-6)
    assert layer.input.mean > 0.1


def test_heads_and_windows_are_averaged_without_rows_of_padding() -> None:
    eye, even = torch.eye(2), torch.full((2, 2), 0.5)
    weights = torch.stack([torch.stack([eye, even]), torch.stack([eye, eye])])[None]  # (1, W = 2, heads = 2, 2, 2)
    windows = torch.tensor([[0, 1], [2, -1]])
    found = measure_distances(Attention(weights, (1, 3), (1, 3), windows=windows))
    # Window 0 (two of three queries): half of the pairs of one head are at 1/2; window 1 has a single query.
    assert found.attention.item() == pytest.approx(2 / 3 * (0.25 + 0) / 2)
    assert found.divergence.item() == pytest.approx(2 / 3 * (math.log(2) / 2 + 0) / 2)
    assert found.input is None


def test_a_vision_transformer_has_all_four() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
    layers = measure_layers(model, [torch.randn(2, 3, 32, 32)])
    assert [layer.name for layer in layers] == ["blocks.0.attn", "blocks.1.attn"]
    assert all(layer.input and layer.added and layer.divergence and layer.images == 2 for layer in layers)
    assert gc_instead(model.blocks[0].attn, layers[0]) is None
    assert "instead of" not in describe_dependence(model, layers)


def test_the_bootstrap_interval_is_that_of_a_mean() -> None:
    values = torch.randn(400, dtype=torch.float64)
    interval = bootstrap_interval(values)
    half = 1.96 * values.std().item() / 20
    assert interval.mean == values.mean().item()
    assert interval.high - interval.mean == pytest.approx(half, rel=0.1)
    assert interval.mean - interval.low == pytest.approx(half, rel=0.1)
    assert bootstrap_interval(values[:1]).low is None


def test_query_independent_non_local_attention_could_be_a_gc_block() -> None:
    model = nn.Sequential(gcnet.build_block("nl_embedded_gaussian", channels=64), nn.Identity())
    block = model[0]
    with torch.no_grad():
        block.add.transform.weight.normal_()
        block.context.query.weight.zero_()  # one query for all positions
    (layer,) = measure_layers(model.eval(), [torch.randn(3, 64, 5, 7)])
    assert layer.attention.mean == pytest.approx(0, abs=1e-6)
    assert layer.added.mean == pytest.approx(0, abs=1e-6)
    assert is_independent(layer)
    saving = gc_instead(block, layer)
    assert saving.parameters == 4 * 64 * 32 + 3 * 32 + 64
    assert saving.gc_parameters == 2 * 64 * 4 + 2 * 64 + 3 * 4 + 1
    text = describe_dependence(model, [layer])
    assert text.startswith("1 of 1 layer is effectively query-independent (cosine distance <= 0.1): 0.")
    assert f"{saving.gc_parameters:,} parameters instead of {saving.parameters:,} (-92%)" in text


def test_new_blocks_and_shared_maps_are_named() -> None:
    model = gcnet.create_model("cifar_resnet20")
    gcnet.insert(model, "nl_gaussian", stages=(2,))
    gcnet.insert(model, "gc", stages=(3,))
    layers = measure_layers(model.eval(), [torch.randn(2, 3, 16, 16)])
    text = describe_dependence(model, layers)
    assert text.startswith(
        "0 of 3 layers are effectively query-independent. 3 layers add nothing yet, like new blocks: layer2.0"
    )
    assert text.endswith("3 layers have one map for all queries by construction.")
    assert describe_dependence(model, []) == "No module of this network attends to positions."


def test_a_layer_with_query_dependent_attention_is_not_independent() -> None:
    model = nn.Sequential(gcnet.build_block("nl_gaussian", channels=8))
    with torch.no_grad():
        model[0].add.transform.weight.normal_()
    (layer,) = measure_layers(model.eval(), [1000 * nn.functional.normalize(torch.randn(2, 8, 5, 7), dim=1)])
    assert not is_independent(layer)
    assert layer.attention.mean == pytest.approx(34 / 35 / 2, abs=1e-3)
