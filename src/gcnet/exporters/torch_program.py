"""Files of torch.export: written and run by PyTorch."""

import io
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.export import Dim

from gcnet.exporters.graph import ExportGraph

METADATA_FILE = "gcnet.json"
"""Extra file of the archive with the metadata, a JSON object of texts."""


def torch_program(graph: ExportGraph, metadata: str) -> bytes:
    """Return the content of a `.pt2` file, as of `torch.export.save`.

    Args:
        graph: the graph.
        metadata: JSON of its metadata.
    """
    shapes = {index: Dim.DYNAMIC for index in graph.dynamic_axes}
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own calls
        program = torch.export.export(graph.module, (graph.example,), dynamic_shapes=(shapes,))
        torch.export.save(program, file, extra_files={METADATA_FILE: metadata})
    return file.getvalue()


def run_torch_program(content: bytes) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return the content of a `.pt2` file as a function of images.

    Args:
        content: bytes of the file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.load(io.BytesIO(content)).module()
