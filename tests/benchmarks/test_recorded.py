"""What docs/speed.md and docs/blocks.md say was measured is what the rows beside them hold."""

import csv
import math
import re
from pathlib import Path

import pytest

from gcnet.blocks import list_blocks

ROOT = Path(__file__).parents[2]
GC = {"contestant": "gc"}
ONE, EIGHT = {"shape": "1x3x224x224", "task": "forward"}, {"shape": "8x3x224x224", "task": "forward"}
STEP = {"task": "training_step"}
NETWORK = {"benchmark": "networks", "contestant": "gc_resnet50", "against": "resnet50"}
FUSED = {"benchmark": "fused", "against": "resnet50 fused"}
MMCV, AGAIN = {"contestant": "mmcv_gc_resnet50"}, {"contestant": "resnet50, again"}
NON_LOCAL = {"benchmark": "non_local", "task": "forward"}
IMAGES = {"1 image": ONE, "8 images": EIGHT}
EXPORTED = {
    "exported GC-ResNet-50 by onnxruntime against PyTorch": "onnxruntime",
    "the same in int8": "onnxruntime int8",
    "the same by OpenVINO": "openvino",
}
LINES = {
    **{
        f"GC-ResNet-50 against ResNet-50, both fused, {images}": FUSED | {"contestant": "gc_resnet50 fused"} | shape
        for images, shape in IMAGES.items()
    },
    **{
        f"a second ResNet-50 against the first, both fused, {images}": FUSED
        | {"contestant": "resnet50 fused, again"}
        | shape
        for images, shape in IMAGES.items()
    },
    **{
        f"fused GC-ResNet-50 against ResNet-50 as it is, {images}": FUSED
        | {"contestant": "gc_resnet50 fused", "against": "resnet50"}
        | shape
        for images, shape in IMAGES.items()
    },
    **{
        f"fused, with `{block}`, {images}": FUSED | {"contestant": f"{block}_resnet50 fused"} | shape
        for block in ("se", "snl", "gc_eca", "gc_affine")
        for images, shape in IMAGES.items()
    },
    "GC-ResNet-50 against ResNet-50, neither fused, 1 image": NETWORK | ONE,
    "GC-ResNet-50 against ResNet-50, neither fused, 8 images": NETWORK | EIGHT,
    "the same with mmcv's block, 8 images": NETWORK | MMCV | EIGHT,
    "the same with timm's block, 8 images": FUSED | {"contestant": "timm_gc_resnet50", "against": "resnet50"} | EIGHT,
    "GC-ResNet-50 against ResNet-50, training step, 8 images": NETWORK | STEP,
    "a second ResNet-50 against the first, training step, 8 images": NETWORK | AGAIN | STEP,
    "the same with mmcv's block, training step, 8 images": NETWORK | MMCV | STEP,
    "Mask R-CNN, ResNet-50, 800 x 1333, fused, with `gc` against without": {
        "benchmark": "detector",
        "contestant": "mask_rcnn_gc_resnet50",
    },
    "a second Mask R-CNN against the first, fused": {
        "benchmark": "detector",
        "contestant": "mask_rcnn_resnet50, again",
    },
    **{
        f"{label}, {images}": {"benchmark": "exported", "contestant": f"gc_resnet50 {runtime}"} | shape
        for label, runtime in EXPORTED.items()
        for images, shape in IMAGES.items()
    },
    "`gc`, inference, against mmcv's `ContextBlock`": GC | {"task": "forward", "against": "mmcv"},
    "`gc`, inference, against timm's `GlobalContext`": GC | {"task": "forward", "against": "timm"},
    "`gc`, inference, against a copy of the map": GC | {"task": "forward", "against": "copy"},
    "`gc`, forward and backward, against mmcv's": GC | {"task": "forward_backward", "against": "mmcv"},
    "non-local, embedded Gaussian, against mmcv's `NonLocal2d`": NON_LOCAL | {"contestant": "nl_embedded_gaussian"},
    "non-local, Gaussian": NON_LOCAL | {"contestant": "nl_gaussian"},
    "non-local, dot product": NON_LOCAL | {"contestant": "nl_dot_product"},
    "non-local, concatenation, 28 x 28": NON_LOCAL | {"contestant": "nl_concatenation"},
}
PRECISION = {
    "ResNet-50, 8 images of 224 pixels": "resnet50",
    "Mask R-CNN, ResNet-18, 2 images of 384 pixels, 128 RoIs": "mask_rcnn_resnet18",
}


def ratios(**wanted: str) -> list[float]:
    """The ratios of minima of the rows that hold all of this."""
    with (ROOT / "benchmarks" / "results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]
    return [float(row["ratio_of_minima"]) for row in rows if row["ratio_of_minima"]]


def cells(label: str, page: str = "speed") -> list[str]:
    """What the page's line of this label says, without the label."""
    text = (ROOT / "docs" / f"{page}.md").read_text().partition("## Accuracy")[0]  # whose tables name blocks again
    lines = text.splitlines()
    lines = [line for line in lines if line.startswith("|") and line.strip("|").split("|")[0].strip() == label]
    assert len(lines) == 1
    return [cell.strip() for cell in lines[0].strip("|").split("|")[1:]]


@pytest.mark.parametrize(("label", "wanted"), LINES.items(), ids=LINES)
def test_a_line_of_goals_is_the_geometric_mean_of_its_rows(label: str, wanted: dict[str, str]) -> None:
    for stated, layout in zip(cells(label)[1:], ("contiguous", "channels_last"), strict=True):
        found = ratios(layout=layout, **wanted)
        if not found:  # detectors and files are measured in contiguous memory only
            assert (stated, layout) == ("", "channels_last")
            continue
        mean = math.exp(sum(map(math.log, found)) / len(found))
        assert float(stated) == round(mean, len(stated.partition(".")[2]))


@pytest.mark.parametrize(("label", "network"), PRECISION.items(), ids=PRECISION)
def test_a_line_of_precision_is_its_rows(label: str, network: str) -> None:
    for stated, kind in zip(cells(label), ("channels_last", "bf16", "bf16_channels_last"), strict=True):
        (ratio,) = ratios(benchmark="precision", contestant=f"{network}_{kind}")
        assert float(stated) == round(ratio, 2)


def test_the_readme_agrees_with_the_page() -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    alone, both = (
        cells(label)[1] for label in LINES if label.startswith("`gc`") and label.endswith(("Block`", "mmcv's"))
    )
    assert f"`gc` takes {alone} times the inference time of mmcv's block, and {both} times for forward" in readme
    network = "GC-ResNet-50 against ResNet-50"
    one, eight, step = (
        cells(f"{network}, {task}")[1]
        for task in ("both fused, 1 image", "both fused, 8 images", "training step, 8 images")
    )
    assert (
        f"takes {step} times the training step of ResNet-50, and, both fused, {eight} times the inference of 8 images"
        in readme
    )
    assert f"and {one} times that of one image" in readme


def test_the_table_of_blocks_is_that_of_its_rows() -> None:
    with (ROOT / "docs" / "results" / "blocks-resnet50.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["contestant"] for row in rows if row["against"]]
    assert {name.partition(",")[0] for name in names} == set(list_blocks())
    plain = rows[0]
    for name in names:
        forward, step = (row for row in rows if row["contestant"] == name)
        assert (plain["contestant"], forward["task"], step["task"]) == ("resnet50", "forward", "training_step")
        parameters, flops = (int(forward[key]) - int(plain[key]) for key in ("parameters", "flops"))
        assert cells(name, "blocks") == [
            f"{parameters:,} ({parameters / int(plain['parameters']):.2%})".replace("%", " %"),
            f"{flops / 1e6:,.2f} ({flops / int(plain['flops']):.2%})".replace("%", " %"),
            *(f"{float(row['ratio_of_minima']):.2f}" for row in (forward, step)),
        ]
    page = (ROOT / "docs" / "blocks.md").read_text()
    assert all(f"{plain[key]}" in page for key in ("date", "commit", "device", "versions", "shape"))


def test_the_page_of_blocks_has_the_source_of_each_block_once() -> None:
    table = (ROOT / "docs" / "blocks.md").read_text().partition("| context | blocks |")[2].partition("| transform |")[0]
    named = " ".join(line.split("|")[2] for line in table.splitlines() if line.startswith(("| one", "| a few")))
    assert sorted(re.findall("`(.*?)`", named)) == sorted(list_blocks())
