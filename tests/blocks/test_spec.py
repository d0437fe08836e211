"""A block is defined in one place: its `BlockSpec` gives every command and name what it needs."""

import math

import pytest
from torch import nn

import gcnet
from gcnet.analysis.cost import analytic_flops, count_flops, count_parameters
from gcnet.blocks import BLOCKS, BlockShape, BlockSpec, block_options, build_block
from gcnet.cli import main
from gcnet.framework import Add, AttentionPool, Branch, ContextBlock, Pointwise
from gcnet.framework.pointwise import zero
from gcnet.models.create import create_model


def build_toy(channels: int, *, bias: bool = True, dims: int = 2) -> ContextBlock:
    transform: nn.Module = Pointwise(channels, channels, initialize=zero)
    if not bias:
        transform = nn.Sequential(transform, nn.Identity())
    return ContextBlock(AttentionPool(channels), {"add": Branch(transform, Add())}, channels=channels, dims=dims)


def toy_flops(shape: BlockShape) -> int:
    return 4 * shape.positions * shape.channels + 2 * shape.channels**2


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = BlockSpec(
        build_toy,
        context="toy pooling",
        transform="linear",
        fusion="add",
        source="this test",
        flops=toy_flops,
        options={"bias": "whether there is one"},
        placement={"stages": (4,)},
    )
    monkeypatch.setitem(BLOCKS, "toy", spec)


@pytest.mark.parametrize("name", list(BLOCKS))
def test_every_option_has_help_and_every_help_an_option(name: str) -> None:
    assert set(BLOCKS[name].options) == set(block_options(name))
    assert all(BLOCKS[name].options.values())


@pytest.mark.usefixtures("toy")
def test_a_new_block_is_listed_counted_and_part_of_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert "toy" in gcnet.list_blocks()
    assert main(["blocks"]) == 0
    output = capsys.readouterr().out
    assert "| toy " in output
    assert "toy pooling" in output
    assert "    bias=True                     whether there is one\n" in output
    network = create_model("toy_resnet50")
    names = [site.name for insertion in gcnet.inserted(network) for site in insertion.sites]
    assert [name.split(".")[0] for name in names] == ["layer3"] * 6
    added = count_parameters(network) - count_parameters(create_model("resnet50"))
    assert added == 6 * count_parameters(build_block("toy", channels=1024))
    assert main(["cost", "toy_resnet50", "--image-size", "64"]) == 0
    assert "layer3.5.context" in capsys.readouterr().out


@pytest.mark.usefixtures("toy")
def test_the_formula_of_a_new_block_is_used() -> None:
    block = build_block("toy", channels=32)
    expected = analytic_flops("toy", channels=32, positions=math.prod((5, 7)))
    assert count_flops(block, (1, 32, 5, 7)) == expected
