"""Distances of Table 1 (arXiv 1904.11492, section 3.2) for a text recognizer's attention: shuffled and trained weights.

The recognizer of PP-OCRv4 comes as an ONNX file in a wheel, and nothing else is fetched:

    pip install gcnet onnx onnxruntime && pip install --no-deps rapidocr-onnxruntime==1.4.4
    python docs/attention_of_ocr.py
"""

from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path

import matplotlib
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from PIL import Image, ImageDraw, ImageFont

from gcnet.analysis import average_cosine_distance, average_jensen_shannon
from gcnet.analysis.query_independence import bootstrap_interval

LINES, DRAWS, HEIGHT = 100, 5, 48
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono", "STIXGeneral")
WORDS = (
    "a the of and to in river stone window garden number seven letter paper signal music winter summer yellow green "
    "table engine bridge market doctor castle forest silver 1904 2019 42 Rome Paris Oslo Quiz Jazz Zebra, Extra: GC"
)
# In the file's graph, of both attention layers: what it is given (after the norm), what it returns, its weights.
LAYERS = (("p2o.Add.235", "p2o.Add.239", "softmax_9.tmp_0"), ("p2o.Add.255", "p2o.Add.259", "softmax_10.tmp_0"))
ROWS = ("input", "output", "attention", "js divergence")


def text_lines() -> Iterator[tuple[str, np.ndarray]]:
    """Lines of two to four words as the recognizer takes them: (1, 3, 48, W), from -1 to 1, W a multiple of 8."""
    generator = np.random.default_rng(0)
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for _ in range(LINES):
        text = " ".join(generator.choice(WORDS.split(), generator.integers(2, 5)))
        font = ImageFont.truetype(fonts / f"{generator.choice(FONTS)}.ttf", int(generator.integers(26, 35)))
        paper, ink = int(generator.integers(180, 256)), int(generator.integers(0, 90))
        image = Image.new("L", (-(-int(font.getlength(text) + 24) // 8) * 8, HEIGHT), paper)
        ImageDraw.Draw(image).text((12, HEIGHT / 2), text, ink, font, anchor="lm")
        gray = np.asarray(image) + generator.normal(0, 6, (HEIGHT, image.width))
        yield text, np.repeat(gray.clip(0, 255)[None, None] / 127.5 - 1, 3, axis=1).astype(np.float32)


def shuffled(model: onnx.ModelProto, seed: int, is_chosen: Callable[[str], bool]) -> onnx.ModelProto:
    """A copy in which the entries of each chosen weight tensor, bias and norm parameter change places among each other.

    Each tensor keeps its values, and with them its mean and its spread; what training made of their order is gone.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    generator = np.random.default_rng(seed)
    for node in copy.graph.node:
        if node.op_type == "Constant" and is_chosen(node.output[0]):
            values = numpy_helper.to_array(node.attribute[0].t)
            if values.dtype == np.float32 and values.size > 1:
                mixed = generator.permutation(values.ravel()).reshape(values.shape)
                node.attribute[0].t.CopyFrom(numpy_helper.from_array(mixed))
    return copy


def is_of_attention(name: str) -> bool:
    """Whether a tensor is one of the two attention layers' keys, queries, values and projections."""
    return name.startswith(tuple(f"linear_{number}." for number in (77, 78, 81, 82)))


def measure(model: onnx.ModelProto, lines: list[tuple[str, np.ndarray]]) -> tuple[torch.Tensor, int]:
    """The distances (layers, rows, lines), means over heads, and how many lines are read without an error."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    letters = ["", *session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    names, read = [name for layer in LAYERS for name in layer], 0
    found = torch.zeros(len(LAYERS), len(ROWS), len(lines), dtype=torch.float64)
    for number, (text, image) in enumerate(lines):
        outputs = session.run([model.graph.output[0].name, *names], {model.graph.input[0].name: image})
        scores, *values = map(np.asarray, outputs)
        best = scores[0].argmax(-1)
        kept = best[np.diff(best, prepend=0) != 0]  # repeats are one letter; the first letter is the blank of CTC
        read += "".join(letters[one] for one in kept).strip() == text
        for layer in range(len(LAYERS)):
            given, returned, weights = (torch.from_numpy(one[0]) for one in values[3 * layer : 3 * layer + 3])
            cosine = [average_cosine_distance(given), average_cosine_distance(returned)]
            heads = [average_cosine_distance(weights).mean(), average_jensen_shannon(weights).mean()]
            found[layer, :, number] = torch.stack([*cosine, *heads])
    return found, read


def main() -> None:
    """Print a table of each layer: mean, 95 % bootstrap interval over lines, and range of the means of the draws."""
    wheel = distribution("rapidocr-onnxruntime")
    model = onnx.load(str(wheel.locate_file("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx")))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for layer in LAYERS for name in layer)
    lines = list(text_lines())
    variants = {
        "all shuffled": [shuffled(model, seed, lambda _: True) for seed in range(DRAWS)],
        "attention shuffled": [shuffled(model, seed, is_of_attention) for seed in range(DRAWS)],
        "trained": [model],
    }
    for name, models in variants.items():
        found, read = zip(*(measure(one, lines) for one in models), strict=True)
        draws = torch.stack(found)  # (draws, layers, rows, lines)
        print(f"\n{name}: {sum(read)} of {len(lines) * len(models)} lines read without an error")
        for layer in range(len(LAYERS)):
            for number, row in enumerate(ROWS):
                values = draws[:, layer, number]
                over = bootstrap_interval(values.mean(0))
                means = values.mean(1)
                print(
                    f"  layer {layer + 1}  {row:<14}  {over.mean:.4f} ({over.low:.4f}-{over.high:.4f})"
                    f"  draws {means.min():.4f}-{means.max():.4f}"
                )


if __name__ == "__main__":
    main()
