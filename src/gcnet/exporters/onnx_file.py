"""ONNX files: written by the exporter of PyTorch, run by onnxruntime."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from gcnet.exporters.graph import INPUT_NAME, ExportGraph
from gcnet.exporters.onnx_operators import translations

_OPSET = 20


def onnx_model(graph: ExportGraph) -> Any:
    """Return a graph as an `onnx.ModelProto` of standard operators, with its metadata.

    Args:
        graph: the graph.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own calls
        program = torch.onnx.export(
            graph.module,
            (graph.example,),
            dynamo=True,
            opset_version=_OPSET,
            input_names=[INPUT_NAME],
            output_names=list(graph.output_names),
            dynamic_shapes=(dict(graph.dynamic_axes),) if graph.dynamic_axes else None,
            custom_translation_table=dict(translations()),
            verbose=False,
        )
    model = cast(Any, program).model_proto
    _remove_traces(model)
    set_metadata(model, graph.metadata)
    return model


def _remove_traces(model: Any) -> None:
    """Remove the lines of source code, with paths of this machine, that the exporter records for every node."""
    graph = model.graph
    for entry in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del entry.metadata_props[:]


def set_metadata(model: Any, metadata: Mapping[str, str]) -> None:
    """Set the metadata of an `onnx.ModelProto`.

    Args:
        model: the model.
        metadata: texts by name.
    """
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)


def run_onnx(content: bytes, threads: int = 0) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return an ONNX file as a function of images, run by onnxruntime on the CPU.

    Args:
        content: bytes of the file.
        threads: number of threads; 0 for onnxruntime's default.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.from_numpy, session.run(None, {INPUT_NAME: images.numpy()})))

    return run
