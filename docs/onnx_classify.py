"""Classify images with an ONNX file of `gcnet export`: python onnx_classify.py MODEL.onnx IMAGE ..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read_image(path: str, steps: dict) -> np.ndarray:
    """Read an image as `gcnet predict` does: float32 (3, H, W), RGB in [0, 1], white where it is transparent."""
    image = ImageOps.exif_transpose(Image.open(path))
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    size, short = steps["image_size"], steps["resize"]
    width, height = (int(short * side / min(image.size)) for side in image.size)
    if steps["crop_mode"] == "squash":
        width = height = short
    image = image.resize((width, height), Image.Resampling[steps["interpolation"].upper()])
    left, top = round((width - size) / 2), round((height - size) / 2)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32)
    return pixels.transpose(2, 0, 1) / 255


def main(model: str, *paths: str) -> None:
    """Print the five most probable classes of each image, with their probabilities."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    if metadata.get("task") != "classification":
        sys.exit(f"{model} is not a classifier of gcnet export")
    names, steps = json.loads(metadata["class_names"]), json.loads(metadata["preprocessing"])
    for path in paths:
        (logits,) = session.run(None, {"images": read_image(path, steps)[None]})
        scores = np.exp(logits[0] - logits[0].max()) / np.exp(logits[0] - logits[0].max()).sum()
        best = np.argsort(-scores, kind="stable")[:5]
        print(f"{path}:", ", ".join(f"{names[label]} {scores[label]:.6f}" for label in best))


if __name__ == "__main__":
    main(*sys.argv[1:]) if sys.argv[2:] else sys.exit(__doc__)
