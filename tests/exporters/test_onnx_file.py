"""ONNX files of all blocks and of networks with blocks: standard operators, equal outputs at every size."""

from typing import Any

import onnx
import pytest
import timm
import torch
from torch import Tensor, nn

import gcnet
from gcnet.exporters.graph import ExportGraph, dynamic_axes
from gcnet.exporters.onnx_file import onnx_model, run_onnx
from named_blocks import SETTINGS, every, make
from random_weights import randomize
from tolerances import assert_equal_within

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unchecked_shapes")]
SIZES = ((6, 10), (13, 7), (5, 31), (2, 2), (14, 14))


class OneOutput(nn.Module):
    """A network as the module of a graph."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.network(images),)


def exported(network: nn.Module, example: Tensor) -> onnx.ModelProto:
    graph = ExportGraph(
        OneOutput(network).eval(), ("output",), example, lambda _: example[0], dynamic_axes(("batch", "size"))
    )
    return onnx_model(graph)


def domains(model: onnx.ModelProto) -> set[str]:
    """Domains of all operators, also of those in branches and functions."""

    def of_nodes(nodes: Any) -> set[str]:
        inner = [attribute.g.node for node in nodes for attribute in node.attribute if attribute.HasField("g")]
        return {node.domain for node in nodes}.union(*map(of_nodes, inner))

    return of_nodes(model.graph.node).union(*(of_nodes(function.node) for function in model.functions))


def assert_equal_at(model: onnx.ModelProto, network: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    run = run_onnx(model.SerializeToString(), threads=1)
    for shape in shapes:
        images = torch.randn(shape)
        with torch.no_grad():
            assert_equal_within(run(images)[0], network(images), torch.float32)


@every
def test_a_block_is_written_in_standard_operators_and_equals_pytorch_at_every_size(name: str) -> None:
    block = randomize(make(name)).eval()
    model = exported(block, torch.randn(2, 22, 6, 10))
    assert domains(model) == {""}
    assert_equal_at(model, block, [(batch, 22, *size) for size in SIZES for batch in (1, 3)])


def test_the_settings_cover_all_blocks() -> None:
    assert {block for block, _ in SETTINGS.values()} == set(gcnet.list_blocks())


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("resnet18", "nl_concatenation"),
        ("resnet18", "fca"),
        ("convnext_atto", "gc"),
        ("seresnet18", None),
        ("gcresnet50t", None),
        ("efficientnet_b0", "ge"),
    ],
)
def test_a_network_of_timm_with_blocks_equals_pytorch_at_every_size(name: str, block: str | None) -> None:
    network = timm.create_model(name, num_classes=7)
    if block is not None:
        gcnet.insert(network, block)
    randomize_blocks(network)
    model = exported(network.eval(), torch.randn(2, 3, 64, 96))
    assert domains(model) == {""}
    sizes = ((64, 64), (96, 64), (65, 97), (128, 72), (80, 80))
    assert_equal_at(model, network, [(batch, 3, *size) for size in sizes for batch in (1, 3)])


def randomize_blocks(network: nn.Module) -> None:
    for _, parameter in gcnet.context_parameters(network):
        with torch.no_grad():
            parameter.normal_(std=0.1)


def test_metadata_of_the_graph_are_those_of_the_file() -> None:
    example = torch.rand(1, 3, 8, 8)
    graph = ExportGraph(
        OneOutput(nn.Conv2d(3, 2, 1)), ("output",), example, lambda _: example[0], metadata={"names": '["ü", "<&>"]'}
    )
    model = onnx_model(graph)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"names": '["ü", "<&>"]'}
    assert [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 8, 8]
