"""Static quantization of ONNX files to int8 by onnxruntime, with scales from calibration images."""

import logging
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from gcnet.exporters.graph import INPUT_NAME
from gcnet.exporters.onnx_file import set_metadata


def quantize_onnx(content: bytes, images: Iterable[Tensor]) -> bytes:
    """Return an ONNX file with convolutions and matrix products in int8, as pairs of QuantizeLinear, DequantizeLinear.

    Weights are quantized per channel; the range of each activation is that over the images.

    Args:
        content: bytes of the float32 file.
        images: calibration images, each (3, H, W) in [0, 1].
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    metadata = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    with TemporaryDirectory() as folder, _quiet():
        original, prepared, quantized = (
            Path(folder) / f"{name}.onnx" for name in ("original", "prepared", "quantized")
        )
        original.write_bytes(content)
        quant_pre_process(original, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            _reader(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        result = onnx.load(quantized)
    set_metadata(result, metadata)
    return result.SerializeToString()


def _reader(images: Iterable[Tensor]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter(images)

        def get_next(self) -> Any:
            image = next(self.images, None)
            return None if image is None else {INPUT_NAME: image[None].numpy()}

    return Reader()


@contextmanager
def _quiet() -> Generator[None]:
    """Without onnxruntime's advice on how to prepare a model."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
