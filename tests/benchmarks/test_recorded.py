"""What docs/speed.md and docs/blocks.md say was measured is what the rows beside them hold."""

import csv
import math
import re
from pathlib import Path

import pytest

from gcnet.blocks import list_blocks

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
        mean = math.exp(sum(map(math.log, found)) / len(found))
        assert float(stated) == round(mean, len(stated.partition(".")[2]))


@pytest.mark.parametrize(("label", "network"), PRECISION.items(), ids=PRECISION)
def test_a_line_of_precision_is_its_rows(label: str, network: str) -> None:
    for stated, kind in zip(cells(label), ("channels_last", "bf16", "bf16_channels_last"), strict=True):
        (ratio,) = ratios(benchmark="precision", contestant=f"{network}_{kind}")
        assert float(stated) == round(ratio, 2)


def test_the_readme_agrees_with_the_page() -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    forward, both, one, eight, step = (cells(label)[1] for label in [*LINES][:1] + [*LINES][3:7])
    assert f"`gc` takes {forward} times the inference time of mmcv's block, and {both} times for forward" in readme
    assert (
        f"takes {step} times the training step of ResNet-50, {eight} times the inference of 8 images and {one} times"
        in readme
    )


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
