"""OpenVINO files: converted from ONNX by the OpenVINO runtime, without telemetry."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor

RT_INFO = "gcnet"
"""Section of the model's rt_info with the metadata."""


def openvino_files(onnx: bytes, metadata: Mapping[str, str]) -> tuple[bytes, bytes]:
    """Return the content of the `.xml` and `.bin` files of a network.

    Args:
        onnx: content of its ONNX file.
        metadata: texts by name, for the section `RT_INFO`.
    """
    openvino = import_openvino()
    model = openvino.Core().read_model(onnx)
    for key, value in metadata.items():
        model.set_rt_info(value, [RT_INFO, key])
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.xml"
        openvino.save_model(model, file, compress_to_fp16=False)
        return file.read_bytes(), file.with_suffix(".bin").read_bytes()


def run_openvino(files: tuple[bytes, ...], threads: int = 0) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return OpenVINO files as a function of images, run on the CPU in float32.

    Args:
        files: content of the `.xml` and `.bin` files.
        threads: number of threads; 0 for OpenVINO's default.
    """
    openvino = import_openvino()
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
    compiled = core.compile_model(core.read_model(files[0], files[1]), "CPU", options)

    def run(images: Tensor) -> tuple[Tensor, ...]:
        outputs = compiled(images.numpy())
        return tuple(torch.from_numpy(outputs[index]) for index in range(len(compiled.outputs)))

    return run


def import_openvino() -> Any:
    """Return the module `openvino`, imported without `openvino_telemetry`, which would report the import."""
    modules, name = cast(dict[str, Any], sys.modules), "openvino_telemetry"
    loaded = modules.get(name)
    modules[name] = None  # OpenVINO uses a stub if this import fails
    try:
        import openvino
    finally:
        del modules[name]
        if loaded is not None:
            modules[name] = loaded
    return openvino
