"""What docs/speed.md says was measured is what benchmarks/results.csv holds."""

import csv
import math
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GC, NETWORK = {"contestant": "gc"}, {"contestant": "gc_resnet50", "against": "resnet50"}
PEER = {"contestant": "mmcv_gc_resnet50", "against": "resnet50"}
ONE, EIGHT = {"shape": "1x3x224x224", "task": "forward"}, {"shape": "8x3x224x224", "task": "forward"}
STEP = {"task": "training_step"}
NON_LOCAL = {"benchmark": "non_local", "task": "forward"}
LINES = {
    "`gc`, inference, against mmcv's `ContextBlock`": GC | {"task": "forward", "against": "mmcv"},
    "`gc`, inference, against timm's `GlobalContext`": GC | {"task": "forward", "against": "timm"},
    "`gc`, inference, against a copy of the map": GC | {"task": "forward", "against": "copy"},
    "`gc`, forward and backward, against mmcv's": GC | {"task": "forward_backward", "against": "mmcv"},
    "GC-ResNet-50 against ResNet-50, inference, 1 image": NETWORK | ONE,
    "GC-ResNet-50 against ResNet-50, inference, 8 images": NETWORK | EIGHT,
    "GC-ResNet-50 against ResNet-50, training step, 8 images": NETWORK | STEP,
    "the same with mmcv's block, inference, 8 images": PEER | EIGHT,
    "the same with mmcv's block, training step, 8 images": PEER | STEP,
    "non-local, embedded Gaussian, against mmcv's `NonLocal2d`": NON_LOCAL | {"contestant": "nl_embedded_gaussian"},
    "non-local, Gaussian": NON_LOCAL | {"contestant": "nl_gaussian"},
    "non-local, dot product": NON_LOCAL | {"contestant": "nl_dot_product"},
    "non-local, concatenation, 28 x 28": NON_LOCAL | {"contestant": "nl_concatenation"},
}
PRECISION = {
    "ResNet-50, 8 images of 224 pixels": "resnet50",
    "Mask R-CNN, ResNet-18, 2 images of 384 pixels, 128 regions": "mask_rcnn_resnet18",
}


def ratios(**wanted: str) -> list[float]:
    """The ratios of minima of the rows that hold all of this."""
    with (ROOT / "benchmarks" / "results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]
    return [float(row["ratio_of_minima"]) for row in rows if row["ratio_of_minima"]]


def cells(label: str) -> list[str]:
    """What the page's line of this label says, without the label."""
    lines = [line for line in (ROOT / "docs" / "speed.md").read_text().splitlines() if line.startswith(f"| {label} |")]
    assert len(lines) == 1
    return [cell.strip() for cell in lines[0].strip("|").split("|")[1:]]


@pytest.mark.parametrize(("label", "wanted"), LINES.items(), ids=LINES)
def test_a_line_of_goals_is_the_geometric_mean_of_its_rows(label: str, wanted: dict[str, str]) -> None:
    for said, layout in zip(cells(label)[1:], ("contiguous", "channels_last"), strict=True):
        found = ratios(layout=layout, **wanted)
        mean = math.exp(sum(map(math.log, found)) / len(found))
        assert float(said) == round(mean, len(said.partition(".")[2]))


@pytest.mark.parametrize(("label", "network"), PRECISION.items(), ids=PRECISION)
def test_a_line_of_precision_is_its_rows(label: str, network: str) -> None:
    for said, kind in zip(cells(label), ("channels_last", "bf16", "bf16_channels_last"), strict=True):
        (ratio,) = ratios(benchmark="precision", contestant=f"{network}_{kind}")
        assert float(said) == round(ratio, 2)


def test_the_readme_says_what_the_page_says() -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    forward, both, one, eight, step = (cells(label)[1] for label in [*LINES][:1] + [*LINES][3:7])
    assert f"takes {forward} times the time of mmcv's, forward and backward {both} times" in readme
    assert f"takes {step} times ResNet-50's, inference of 8 images {eight} times, of one image {one} times" in readme
