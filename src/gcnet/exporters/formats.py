"""The formats of `gcnet export`: the content of their files, and how they run."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from torch import Tensor

from gcnet.errors import Failure, UserError, printable, raise_if_out_of_memory
from gcnet.exporters.graph import ExportGraph
from gcnet.exporters.onnx_file import onnx_model, run_onnx
from gcnet.exporters.openvino_files import openvino_files, run_openvino
from gcnet.exporters.torch_program import run_torch_program, torch_program

ExportedFunction = Callable[[Tensor], tuple[Tensor, ...]]
"""An exported network as a function of images (N, 3, H, W) in [0, 1]."""


@dataclass(frozen=True)
class ExportFormat:
    """A file format.

    Attributes:
        write: content of the files of a graph, in the order of `ExportSettings.files`.
        run: the content of the files as a function of images.
        libraries: modules that it needs.
        extra: extras of gcnet that install them.
    """

    write: Callable[[ExportGraph], tuple[bytes, ...]]
    run: Callable[[tuple[bytes, ...]], ExportedFunction]
    libraries: tuple[str, ...] = ()
    extra: str = ""


_ONNX = ("onnx", "onnxscript", "onnxruntime")

FORMATS = {
    "onnx": ExportFormat(
        lambda graph: (onnx_model(graph).SerializeToString(),), lambda files: run_onnx(files[0]), _ONNX, "export"
    ),
    "torch-export": ExportFormat(
        lambda graph: (torch_program(graph, json.dumps(dict(graph.metadata))),),
        lambda files: run_torch_program(files[0]),
    ),
    "openvino": ExportFormat(
        lambda graph: openvino_files(onnx_model(graph).SerializeToString(), graph.metadata),
        run_openvino,
        (*_ONNX, "openvino"),
        "export,openvino",
    ),
}
"""Formats by name."""


def exported_content(name: str, graph: ExportGraph) -> tuple[bytes, ...]:
    """Return the content of the files of a graph.

    Args:
        name: key of `FORMATS`.
        graph: the graph.

    Returns:
        In the order of `ExportSettings.files`.

    Raises:
        Failure: the network has an operation that the exporter of the format cannot convert.
    """
    try:
        return FORMATS[name].write(graph)
    except RuntimeError as error:  # of the exporters, with pages of text
        raise_if_out_of_memory(error)
        raise Failure(f"`format={name}` cannot hold this network: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The line of an exporter's error that names the operation, or the first line of its cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return printable(next((line for line in lines if "No conversion rule" in line), lines[0])[:200])


def require_libraries(name: str) -> None:
    """Check that the libraries of a format are installed.

    Args:
        name: key of `FORMATS`.

    Raises:
        UserError: one is missing.
    """
    form = FORMATS[name]
    for library in form.libraries:
        if find_spec(library) is None:
            raise UserError(
                f'`format={name}` requires {library}, which is not installed: pip install "gcnet[{form.extra}]"'
            )
