"""Files of torch.export and OpenVINO: outputs, metadata, missing libraries, no connections."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.ops import DeformConv2d

from gcnet.errors import Failure, UserError
from gcnet.exporters import formats
from gcnet.exporters.formats import FORMATS, exported_content, require_libraries
from gcnet.exporters.graph import ExportGraph, dynamic_axes
from gcnet.exporters.openvino_files import import_openvino
from named_blocks import make
from random_weights import randomize

METADATA = {"class_names": '["Zürich <&>", "b"]', "task": "classification"}


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 22, 1), randomize(make("gc"))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.block(self.stem(images))
        return features.mean((2, 3)), features


@pytest.fixture(scope="module")
def graph() -> ExportGraph:
    torch.manual_seed(0)
    example = torch.rand(2, 3, 6, 10)
    return ExportGraph(
        TwoOutputs().eval(),
        ("mean", "features"),
        example,
        lambda _: example[0],
        dynamic_axes(("batch", "size")),
        metadata=METADATA,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_has_the_outputs_of_pytorch_at_every_size(name: str, graph: ExportGraph) -> None:
    run = FORMATS[name].run(FORMATS[name].write(graph))
    for shape in ((1, 3, 6, 10), (3, 3, 7, 5), (2, 3, 31, 2)):
        images = torch.rand(shape)
        with torch.no_grad():
            torch.testing.assert_close(run(images), graph.module(images), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
def test_metadata_of_torch_export_are_an_extra_file(graph: ExportGraph) -> None:
    (content,) = FORMATS["torch-export"].write(graph)
    files = {"gcnet.json": ""}
    torch.export.load(io.BytesIO(content), extra_files=files)
    assert json.loads(files["gcnet.json"]) == METADATA


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
def test_metadata_of_openvino_are_in_its_rt_info(graph: ExportGraph) -> None:
    model = import_openvino().Core().read_model(*FORMATS["openvino"].write(graph))
    for key, value in METADATA.items():
        assert model.get_rt_info(["gcnet", key]) == value


class Deformed(nn.Module):
    """A deformable convolution, which OpenVINO cannot convert from ONNX."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets, self.conv = nn.Conv2d(3, 18, 3, padding=1), DeformConv2d(3, 4, 3, padding=1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.conv(images, self.offsets(images)),)


@pytest.mark.slow
def test_a_network_that_a_format_cannot_hold_is_one_sentence() -> None:
    example = torch.rand(1, 3, 8, 8)
    graph = ExportGraph(Deformed().eval(), ("maps",), example, lambda _: example[0])
    with pytest.raises(Failure, match="^`format=openvino` cannot hold this network: No conversion rule .* DeformConv"):
        exported_content("openvino", graph)
    torch.testing.assert_close(FORMATS["onnx"].run(exported_content("onnx", graph))(example), graph.module(example))


def test_a_missing_library_is_named_with_the_extra_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "openvino" else name)
    require_libraries("onnx")
    with pytest.raises(UserError) as caught:
        require_libraries("openvino")
    assert str(caught.value) == (
        '`format=openvino` requires openvino, which is not installed: pip install "gcnet[export,openvino]"'
    )


CONNECTIONS = """
import os, sys

def report(event, arguments):  # also in processes that are forked from this one
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        os.write(2, f"{event} {arguments}".encode())

sys.addaudithook(report)
import gcnet

gcnet.save_model(gcnet.create_model("gc_scenes_resnet"), "m.safetensors", preprocessing={"image_size": 64})
for output in ("m.pt2", "m.xml"):
    gcnet.export("m.safetensors", output=output)
assert "openvino" in sys.modules and "openvino_telemetry" not in sys.modules
"""


@pytest.mark.slow
def test_export_opens_no_connection_to_send_telemetry(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONNECTIONS], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
