"""Detect objects with an ONNX file of `gcnet export`: python onnx_detect.py MODEL.onnx IMAGE ..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def paste(mask: np.ndarray, box: np.ndarray, shape: tuple[int, int], border: str) -> np.ndarray:
    """Return the pixels (H, W) of a mask (28, 28) on the grid of its box, by bilinear interpolation."""
    weights = []  # of each cell (column) for each pixel (row), of rows and columns of the mask
    for (start, stop), length in zip(box.reshape(2, 2).T[::-1], shape, strict=True):
        cells = (np.arange(length) + 0.5 - start) / (stop - start) * 28 - 0.5
        inside = (cells >= -0.5) & (cells <= 27.5)
        cells = cells.clip(0, 27) if border == "edge" else cells
        weights.append(np.maximum(1 - np.abs(cells[:, None] - np.arange(28)), 0) * inside[:, None])
    return weights[0] @ mask @ weights[1].T >= 0.5


def main(model: str, *paths: str, threshold: float = 0.5) -> None:
    """Print class, score, box (left, top, right, bottom) and size of the mask of each object, the best first."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs, metadata = [item.name for item in session.get_outputs()], session.get_modelmeta().custom_metadata_map
    if metadata.get("task") != "detection":
        sys.exit(f"{model} is not a detector of gcnet export")
    for path in paths:
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
        pixels = np.float32(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")) / 255
        result = dict(zip(outputs, session.run(outputs, {"images": pixels.transpose(2, 0, 1)[None]}), strict=True))
        for row in np.flatnonzero(result["scores"][0] > threshold):
            label, score, box, *grid = (result[name][0, row] for name in ("labels", "scores", "boxes", *outputs[4:]))
            name, edges = json.loads(metadata["class_names"])[label - 1], " ".join(f"{edge:.3f}" for edge in box)
            mask = f", {paste(*grid, pixels.shape[:2], metadata['mask_border']).sum()} pixels" if grid else ""
            print(f"{path}: {name} {score:.6f} at {edges}{mask}")


if __name__ == "__main__":
    main(*sys.argv[1:]) if sys.argv[2:] else sys.exit(__doc__)
