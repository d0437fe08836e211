"""The paper's tables: parameters by hand, multiply-adds by formula, and a source for every published value."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from gcnet.analysis.cost import analytic_flops, count_flops, count_parameters
from gcnet.experiments.published import PUBLICATIONS, PUBLISHED, PublishedResult
from gcnet.experiments.rows import build_linear_bottleneck, build_relu_bottleneck
from gcnet.experiments.tables import TABLES
from gcnet.experiments.text import RowCost, count_table
from gcnet.models.create import create_model

# In millions: 44,400,693 of Mask R-CNN and 25,557,032 of ResNet-50, and by block C^2 + 2C + 1 (SNL), 2C^2 + 5C/2 (NL)
# and 2CP + 2C + 3P + 1 (GC, with P = C/ratio; without the attention C + 1 fewer, without LayerNorm 2P fewer).
MILLIONS = {
    "design": [44.40, 46.50, 45.45, 44.53, 46.92],
    "position": [44.40, 46.92, 44.56, 46.92],
    "stages": [44.40, 44.54, 45.20, 45.99, 46.92],
    "bottleneck": [44.40, 64.35, 46.92, 46.92, 46.92],
    "ratio": [44.40, 54.40, 49.42, 46.92, 45.68],
    "pooling-fusion": [44.40, 46.91, 46.91, 46.92, 46.92],
    "imagenet": [25.56, 27.66, 26.61, 25.69, 28.06, 28.06, 28.08, 28.08],
}
WIDTHS = {512: 4, 1024: 6, 2048: 3}  # blocks of c3 to c5 of ResNet-50, by channels


@cache
def counted(name: str) -> list[RowCost]:
    return count_table(TABLES[name])


def gc(channels: int, ratio: int) -> int:
    width = channels // ratio
    return 2 * channels * width + 2 * channels + 3 * width + 1


@pytest.mark.parametrize("name", MILLIONS)
@pytest.mark.slow
def test_parameters_are_those_counted_by_hand(name: str) -> None:
    assert [round(cost.parameters / 1e6, 2) for cost in counted(name)] == MILLIONS[name]


def test_every_ratio_adds_the_parameters_of_its_formula() -> None:
    baseline, *others = counted("ratio")
    for cost, ratio in zip(others, (4, 8, 16, 32), strict=True):
        by_formula = sum(count * gc(channels, ratio) for channels, count in WIDTHS.items())
        assert cost.parameters - baseline.parameters == by_formula


@pytest.mark.slow
def test_every_backbone_gets_a_block_in_each_residual_block_of_c3_to_c5() -> None:
    costs = counted("backbones")
    blocks = {"R50": WIDTHS, **dict.fromkeys(("R101", "X101"), WIDTHS | {1024: 23})}
    for plain, sixteen, four in zip(costs[::3], costs[1::3], costs[2::3], strict=True):
        counts = blocks[plain.row.label.partition("+")[0]]
        for cost, ratio in ((sixteen, 16), (four, 4)):
            added = sum(count * gc(channels, ratio) for channels, count in counts.items())
            assert cost.parameters - plain.parameters == added


def test_one_block_at_c4_has_the_costs_of_its_formula() -> None:
    baseline, *others = counted("design")
    for cost, block in zip(others, ("nl_embedded_gaussian", "snl", "gc"), strict=False):
        assert cost.flops - baseline.flops == analytic_flops(block, channels=1024, positions=50 * 80)


def test_parameters_are_the_published_ones_but_for_the_frozen_stages() -> None:
    rows = [(cost, cost.row.published) for name in MILLIONS for cost in counted(name)]
    known = [(cost, network.parameters) for cost, network in rows if network and network.parameters]
    assert len(known) > 4
    for cost, value in known:
        decimals = len(value.value.partition(".")[2])
        frozen = 9_536 + 215_808 if value.source == "PVT" else 0  # the stem and c2
        assert f"{(cost.parameters - frozen) / 1e6:.{decimals}f}" == value.value


def test_with_strides_in_the_first_convolution_the_published_multiply_adds_come_out() -> None:
    with torch.device("meta"):
        model: Any = create_model("gc_resnet50")
    for layer in (model.layer2, model.layer3, model.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    assert PUBLISHED["gc_resnet50"].multiply_adds == PublishedResult("3.87", "ECA")
    assert f"{count_flops(model, (1, 3, 224, 224)) / 2e9:.2f}" == "3.87"


def test_the_numbers_of_the_notes_are_those_of_the_formulas() -> None:
    def linear(positions: int) -> float:
        return 4 * positions * 1024 * 512 / 1e9

    notes = " ".join(TABLES["design"].notes)
    pairs, here, wider = 2 * 4000**2 * 512 / 1e9, linear(50 * 80), linear(50 * 84)
    assert f"({pairs:.1f} G)" in notes
    assert f"({here:.1f} G here, {wider:.1f} G at 800 x 1344)" in notes
    values = {row.label: row.published and row.published.multiply_adds for row in TABLES["design"].rows}
    non_local, context = values["+1 NL"], values["+all GC"]
    assert non_local is not None and context is not None
    assert f"{float(non_local.value) - float(context.value):.1f} G, is about" in notes


def test_a_row_has_all_scores_of_its_table_or_none_and_a_label_of_its_own() -> None:
    for table in TABLES.values():
        assert all(len(row.published.scores) == len(table.scores) for row in table.rows if row.published)
        assert len({row.label for row in table.rows}) == len(table.rows)


def test_rows_of_every_table_have_the_published_values_of_their_network() -> None:
    rows = [row for table in TABLES.values() for row in table.rows if row.published]
    assert all(row.published is PUBLISHED[row.model] for row in rows if row.options.get("ratio", 16) == 16)
    assert {value.source for row in rows for value in row.published_values} < set(PUBLICATIONS)


@pytest.mark.parametrize("build", [build_linear_bottleneck, build_relu_bottleneck])
def test_a_bottleneck_without_norm_starts_as_the_identity_and_follows_its_formula(build: Any) -> None:
    block = build(16, ratio=4).double()
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    assert torch.equal(block(x), x)
    assert count_parameters(block) == 2 * 16 * 4 + 2 * 16 + 4 + 1
    reduce, expand = block.add.transform[0:2] if build is build_linear_bottleneck else _outer(block.add.transform)
    nn.init.normal_(expand.weight)
    weights = block.context.attention(x).flatten(1)
    for sample in range(2):
        context = sum(weights[sample, j] * x[sample].flatten(1)[:, j] for j in range(35))
        hidden = reduce.weight @ context + reduce.bias
        hidden = hidden if build is build_linear_bottleneck else hidden.clamp(min=0)
        expected = x[sample] + (expand.weight @ hidden + expand.bias)[:, None, None]
        torch.testing.assert_close(block(x)[sample], expected)


def _outer(bottleneck: Any) -> tuple[Any, Any]:
    return bottleneck.reduce, bottleneck.expand
