"""Networks as exported files: the runtimes that are measured against PyTorch."""

from typing import Literal

import torch
from torch import Tensor, nn

from gcnet.analysis.timing import fill_zero_parameters
from gcnet.data.settings import Preprocessing
from gcnet.exporters.formats import ExportedFunction
from gcnet.exporters.graph import ExportGraph, dynamic_axes
from gcnet.exporters.onnx_file import onnx_model, run_onnx
from gcnet.exporters.openvino_files import openvino_files, run_openvino
from gcnet.exporters.quantization import quantize_onnx
from gcnet.insertion.fuse import fuse
from gcnet.models.create import create_model
from gcnet.tasks.classification.export import ExportedClassifier

Runtime = Literal["onnxruntime", "onnxruntime int8", "openvino"]
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "onnxruntime int8", "openvino")
_CALIBRATION_IMAGES = 4  # random, since only the time is measured


class RuntimeNetwork(nn.Module):
    """An exported file as a module, images (N, 3, H, W) to its first output."""

    def __init__(self, run: ExportedFunction) -> None:
        super().__init__()
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        return self.run(images)[0]


def build_exported(name: str, runtime: Runtime, pixels: int) -> nn.Module:
    """A classifier as a file with dynamic batch size, run by as many threads as torch has."""
    network = create_model(name).eval()
    fill_zero_parameters(network)
    example = torch.rand(2, 3, pixels, pixels)
    module = ExportedClassifier(fuse(network), Preprocessing(pixels)).eval()
    graph = ExportGraph(module, ("logits",), example, lambda _: example[0], dynamic_axes(("batch",)))
    content, threads = onnx_model(graph).SerializeToString(), torch.get_num_threads()
    if runtime == "openvino":
        return RuntimeNetwork(run_openvino(openvino_files(content, {}), threads))
    if runtime == "onnxruntime int8":
        content = quantize_onnx(content, torch.rand(_CALIBRATION_IMAGES, 3, pixels, pixels))
    return RuntimeNetwork(run_onnx(content, threads))
