"""`gcnet cost`: tables, differences, sizes, model files, CSV and figure; and, when asked for, time and memory."""

import csv
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from gcnet.analysis.cost import analytic_flops
from gcnet.cli import main
from gcnet.costs import figure as cost_figure
from gcnet.costs import measured as measured
from gcnet.costs.figure import render_costs
from gcnet.costs.report import CostReport, CostRow, parts_table
from gcnet.insertion import inserted
from gcnet.models.create import create_model
from gcnet.models.model_file import save_model

GC_PARAMETERS = 3 * 173 + 3 * 601 + 3 * 2_225  # 2CP + 2C + 3P + 1 at 16, 32, 64 channels, ratio 4
GC_FLOPS = sum(
    3 * analytic_flops("gc", channels=channels, positions=side * side, ratio=4)
    for channels, side in ((16, 32), (32, 16), (64, 8))
)


def cost(*arguments: str) -> int:
    return main(["cost", *arguments])


def table(output: str, start: str) -> dict[str, list[str]]:
    """The rows of the table after the line that starts so, by their first cell."""
    lines = output[output.index(start) :].split("\n\n")[1].splitlines()
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return {row[0]: row[1:] for row in (cells[0], *cells[2:])}


def read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "cost.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_network_is_counted_by_stage_in_all_and_by_block(capsys: pytest.CaptureFixture[str]) -> None:
    assert cost("gc_resnet50") == 0
    rows = table(capsys.readouterr().out, "gc_resnet50, 224 x 224, batch 32")
    assert rows["part"] == ["parameters", "MFLOPs", "MMACs", "activations (MB)"]
    assert list(rows)[1:8] == ["stem", "layer1", "layer2", "layer3", "layer4", "head", "total"]
    assert len(rows) == 8 + 13
    assert rows["total"][:3] == ["28,078,773", "8,196", "4,098"]
    assert rows["layer2.0.context"][0] == "33,889"


@pytest.mark.parametrize(
    ("total", "block", "heading", "cells"),
    [
        (8_196e6, 1e6, "MFLOPs", ["8,196", "1"]),
        (296_381e3, 3_072, "MFLOPs", ["296.4", "0.003072"]),
        (81_649e3, 3_072, "KFLOPs", ["81,649", "3.072"]),
        (250e9, 36_860, "MFLOPs", ["250,000", "0.03686"]),
    ],
)
def test_the_unit_of_flops_suits_the_smallest_part_but_is_at_least_m_from_100_mflops(
    total: float, block: float, heading: str, cells: list[str]
) -> None:
    lines = (CostRow("total", "total", {"flops": total}), CostRow("block", "block", {"flops": block}))
    headings, _, *rows = parts_table(CostReport("network", (64, 64), 1, lines), None).splitlines()
    assert headings.split()[3] == heading
    assert [row.split()[3] for row in rows] == cells


def test_differences_to_the_plain_network_are_those_of_the_blocks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cost("gc_cifar_resnet20", "--against", "plain", "--batch-size", "7", "--output", str(tmp_path)) == 0
    output = capsys.readouterr().out
    rows = table(output, "gc_cifar_resnet20, 32 x 32, batch 7, against cifar_resnet20")
    assert rows["part"] == ["parameters", "difference", "KFLOPs", "difference", "KMACs"]
    assert "| activations (MB) |" in output and all(len(line) <= 100 for line in output.splitlines() if "|" in line)
    assert rows["total"][:2] == ["278,719", f"+{GC_PARAMETERS:,} (+3.34 %)"]
    assert rows["stem"][1] == rows["stem"][3] == "0"
    total, *others = read_csv(tmp_path)
    assert (total["model"], total["against"], total["kind"]) == ("gc_cifar_resnet20", "cifar_resnet20", "total")
    assert int(total["parameters_difference"]) == GC_PARAMETERS
    assert int(total["flops_difference"]) == GC_FLOPS
    assert float(total["parameters_percent"]) == pytest.approx(100 * GC_PARAMETERS / 269_722)
    assert float(total["multiply_adds"]) == int(total["flops"]) / 2
    for key in ("parameters", "flops", "activation_bytes"):
        stages = sum(int(row[key]) for row in others if row["kind"] == "stage")
        assert stages == int(total[key])
        assert sum(int(row[f"{key}_difference"] or 0) for row in others) == int(total[f"{key}_difference"])
    with Image.open(tmp_path / "cost.png") as figure:
        assert figure.format == "PNG" and figure.width > 1000


def test_networks_and_sizes_are_compared_in_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names, sizes = ("cifar_resnet20", "cifar_resnet56"), ("32", "64x48")
    assert cost(*names, "--image-size", *sizes, "--block", "se", "--output", str(tmp_path)) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[2].startswith("| cifar_resnet20 + se, 32 x 32")
    found = {(row["model"], row["height"], row["width"]): row for row in read_csv(tmp_path) if row["kind"] == "total"}
    assert len(found) == 4
    small, large = (found["cifar_resnet20 + se", *size] for size in (("32", "32"), ("64", "48")))
    assert small["parameters"] == large["parameters"]
    assert int(large["flops"]) / int(small["flops"]) == pytest.approx(3, rel=0.01)


def test_another_network_can_be_the_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    assert cost("gc_cifar_resnet20", "--against", "snl_cifar_resnet20", "--num-classes", "3") == 0
    rows = table(capsys.readouterr().out, "gc_cifar_resnet20, 32 x 32, batch 32, against snl_cifar_resnet20")
    snl = 3 * sum(channels**2 + 2 * channels + 1 for channels in (16, 32, 64))
    assert rows["total"][1].startswith(f"{GC_PARAMETERS - snl:,} (-")
    assert rows["layer1.0.context"][1].startswith(f"{173 - 17**2:,} (-"), "blocks at the same site are compared"
    assert rows["head"][0] == "195"


def test_a_model_file_provides_its_network_and_the_one_without_blocks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "best.safetensors"
    model = create_model("gc_cifar_resnet20", num_classes=7)
    save_model(model, file, preprocessing={"image_size": 40})
    assert cost(str(file), "--against", "plain") == 0
    rows = table(capsys.readouterr().out, f"{file}, 40 x 40, batch 32, against cifar_resnet20")
    assert rows["total"][1].startswith(f"+{GC_PARAMETERS:,} ")
    assert cost(str(file), "--block", "gc") == 2
    assert "--block requires a network name" in capsys.readouterr().err


def test_a_detector_is_reported_with_its_rois(capsys: pytest.CaptureFixture[str]) -> None:
    assert cost("mask_rcnn_gc_scenes_resnet") == 0
    output = capsys.readouterr().out
    rows = table(output, "mask_rcnn_gc_scenes_resnet, 64 x 64, batch 2")
    assert list(rows)[1:8] == ["stem", "layer1", "pyramid", "proposals", "boxes", "masks", "total"]
    assert "1000 RoIs and 100 masks" in output


@pytest.mark.parametrize("name", ["timm/test_convnext", "timm/test_efficientnet", "timm/test_vit"])
@pytest.mark.slow
def test_blocks_behind_other_modules_are_rows_and_their_stages_sum_up(name: str, tmp_path: Path) -> None:
    assert cost(name, "--block", "gc", "--ratio", "4", "--against", "plain", "--output", str(tmp_path)) == 0
    total, *rows = read_csv(tmp_path)
    blocks = [row for row in rows if row["kind"] == "block"]
    sites = inserted(create_model(name, block="gc", ratio=4))[0].sites
    assert [row["part"] for row in blocks] == [f"{site.name}.context" for site in sites]
    assert [int(row["parameters"]) for row in blocks] == [site.parameters for site in sites]
    for key in ("parameters", "flops", "activation_bytes"):
        assert sum(int(row[key]) for row in rows if row["kind"] == "stage") == int(total[key])
    assert int(total["parameters_difference"]) == sum(site.parameters for site in sites)
    assert sum(int(row["flops"]) for row in blocks) == int(total["flops_difference"]) > 0
    stages = {row["part"]: int(row["parameters_difference"]) for row in rows if row["kind"] == "stage"}
    for stage, added in stages.items():  # A block counts in the stage that holds its module.
        assert added == sum(site.parameters for site in sites if f"{site.name}.".startswith(f"{stage}."))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("regnet_x_400mf", "224 x 224"),  # computes its widths with tensors, which the meta device cannot
        ("timm/test_vit3", "160 x 160"),
        ("torchvision/squeezenet1_1", "224 x 224"),
    ],
)
def test_networks_of_every_library_are_counted_at_their_own_size(
    name: str, size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cost(name) == 0
    assert f"{name}, {size}, batch 32" in capsys.readouterr().out


def test_a_size_that_a_network_does_not_take_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cost("timm/test_vit", "--image-size", "100") == 2
    error = capsys.readouterr().err
    assert "timm/test_vit cannot be counted on images of 100 x 100 pixels (AssertionError: Input height" in error
    assert "--image-size takes another size" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("name", ["cifar_resnet20", "timm/test_resnet"])
def test_a_network_without_blocks_is_not_compared_with_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cost(name, "--against", "plain") == 2
    assert f"--against plain compares with the same network without blocks, but {name} has none" in (
        capsys.readouterr().err
    )


def test_measured_times_show_their_quartiles_in_tables_that_fit_a_terminal() -> None:
    measured = {"forward_seconds": 0.0058, "forward_seconds_q1": 0.00185, "forward_seconds_q3": 0.0123}
    counted = {"parameters": 173.0, "flops": 65792.0, "multiply_adds": 32896.0, "activation_bytes": 2232e3}
    peaks = {"step_seconds": 1.5, "forward_peak_bytes": 5e6, "step_peak_bytes": 7e7}
    lines = [
        CostRow(name, kind, counted | measured | peaks) for name, kind in (("total", "total"), ("layer1", "stage"))
    ]
    bill = CostReport("network", (32, 32), 2, tuple(lines))
    text = parts_table(bill, bill)
    assert "5.8 (1.85-12.3)" in text and " MFLOPs |" in text and " 0.06579 " in text
    assert max(map(len, text.splitlines())) <= 100
    headings = [cell.strip() for line in text.splitlines() if line.startswith("| part") for cell in line.split("|")]
    assert {"activations (MB)", "forward (ms)", "step (ms)", "forward peak (MB)", "step peak (MB)"} <= set(headings)


def test_bars_of_the_figure_have_the_colors_of_its_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(cost_figure, "figure_png", lambda drawn, **_: figures.append(drawn) or b"")
    stages = {"stem": 3.0, "layer1": 4.0, "head": 1.0}
    lines = [CostRow("total", "total", {"parameters": 8.0, "flops": 8.0, "activation_bytes": 8.0, "step_seconds": 8.0})]
    lines += [
        CostRow(name, "stage", dict.fromkeys(("parameters", "flops", "activation_bytes"), size))
        for name, size in stages.items()
    ]
    render_costs([CostReport("folder/of/network", (32, 32), 2, tuple(lines))])
    (figure,) = figures
    (legend,) = figure.legends
    colors = {
        text.get_text(): patch.get_facecolor()
        for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
    }
    *counted, timed = [axes for axes in figure.axes if axes.patches]
    for axes in counted:
        widths = {patch.get_facecolor(): patch.get_width() for patch in axes.patches}
        scale = sum(widths.values()) / 8
        assert widths == {colors[name]: pytest.approx(size * scale) for name, size in stages.items()}
    assert [patch.get_facecolor() for patch in timed.patches] == [colors["whole network"]]
    width, height = figure.get_size_inches()
    assert width / height < 6


def test_the_figure_shows_what_is_added_to_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(cost_figure, "figure_png", lambda drawn, **_: figures.append(drawn) or b"")
    reports = [
        CostReport(
            name,
            (32, 32),
            2,
            (
                CostRow("total", "total", {"parameters": 100.0 + added}),
                CostRow("stem", "stage", {"parameters": 40.0}),
                CostRow("layer1", "stage", {"parameters": 60.0 + added}),
            ),
        )
        for name, added in (("plain", 0.0), ("with block", 7.0))
    ]
    render_costs([reports[1]], [reports[0]])
    axes = figures[0].axes[0]
    assert [bar.get_width() for bar in axes.patches] == [7]
    assert axes.texts[0].get_text().strip() == "+7 (+7 %)"
    assert "plain" in figures[0].get_suptitle()


def test_the_figure_shows_parameters_once_per_model(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(cost_figure, "figure_png", lambda drawn, **_: figures.append(drawn) or b"")
    total = CostRow("total", "total", {"parameters": 100.0, "flops": 9.0})
    render_costs([CostReport(name, (size, size), 2, (total,)) for name in ("first", "second") for size in (32, 64)])
    flops, parameters = figures[0].axes[:2]
    assert len(flops.patches) == 4 and len(parameters.patches) == 2
    assert [label.get_text() for label in parameters.get_yticklabels()] == ["first", "second"]
    assert [label.get_text() for label in flops.get_yticklabels()][:2] == ["first, 32 x 32", "first, 64 x 64"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gc_scenes_resnet", "mask_rcnn_gc_scenes_resnet"])
def test_time_and_memory_are_measured_on_request(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "REPETITIONS", 1)
    arguments = ("--image-size", "32", "--batch-size", "2", "--device", "cpu", "--output", str(tmp_path))
    assert cost(name, "--against", "plain", "--measure", *arguments) == 0
    rows = {row["part"].removeprefix("backbone.body."): row for row in read_csv(tmp_path)}
    for part in ("total", "layer1", "layer1.0.context"):
        assert 0 < float(rows[part]["forward_seconds"]) < 10
        assert 0 < float(rows[part]["step_seconds"]) < 10
    assert float(rows["total"]["step_peak_bytes"]) > 0
    assert rows["total"]["step_seconds_difference"] and rows["layer1"]["step_seconds_percent"]
    assert rows["stem"]["forward_seconds"] == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "needs at least one model"),
        ("gc_resnet5O", 'did you mean "gc_resnet50"'),
        ("resnet18 --image-size big", "--image-size takes sides such as 224"),
        ("resnet18 --image-size 0", "--image-size takes sides such as 224"),
        ("resnet18 --image-size 1000000", "of at most 100,000 pixels; found 1000000"),
        (f"resnet18 --num-classes {10**30}", "at most 100,000,000 classes"),
        ("resnet18 --batch-size 0", "--batch-size must be at least 1, found 0"),
        ("resnet18 --device cpu", "--device requires --measure"),
        ("resnet18 --against resnet19", 'did you mean "resnet18"'),
        ("gc_resnet18 --block se", "already contains a block"),
        ("nowhere.safetensors", "nowhere.safetensors"),
    ],
)
def test_a_usage_error_is_one_sentence(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cost(*arguments.split()) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("name", ["timm/gcresnet33ts", "timm/seresnet18", "torchvision/mobilenet_v3_small"])
def test_against_plain_takes_the_blocks_of_timm_and_torchvision_out(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from gcnet.costs.networks import CountedNetwork

    whole, plain = CountedNetwork(name, {}), CountedNetwork(name, {}).plain()
    less = sum(parameter.numel() for parameter in plain.skeleton().parameters())
    assert less < sum(parameter.numel() for parameter in whole.skeleton().parameters())
    assert cost(name, "--against", "plain", "--batch-size", "2") == 0
    assert f"against {name} without its blocks" in capsys.readouterr().out


def test_a_network_by_name_is_counted_at_its_own_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert cost("torchvision/inception_v3", "--batch-size", "2") == 0
    assert "299" in capsys.readouterr().out


def test_a_network_that_is_made_for_one_size_is_built_for_the_one_asked_for(tmp_path: Path) -> None:
    size = ("--image-size", "64", "--output", str(tmp_path))
    assert cost("deit_tiny_patch16_224", "--block", "gc", "--against", "plain", *size) == 0
    total, *rows = read_csv(tmp_path)
    tokens, width, depth = 16 + 1, 192, 12
    layer = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width
    plain = 2 * 16 * 768 * width + depth * layer + 2 * width * 1000
    blocks = [int(row["flops"]) for row in rows if row["kind"] == "block"]
    assert len(blocks) == depth - 1
    assert int(total["flops"]) == plain + sum(blocks)
    assert int(total["flops_difference"]) == sum(blocks)


@pytest.mark.slow
def test_a_published_detector_is_counted_without_its_weights(capsys: pytest.CaptureFixture[str]) -> None:
    name = "mmdet1/mask_rcnn_r4_gcb_c3-c5_r50_fpn_1x"
    assert main(["cost", name, "--against", "plain", "--image-size", "64", "--batch-size", "1"]) == 0
    output = capsys.readouterr().out
    assert f"{name}, " in output
    total = next(line for line in output.splitlines() if line.startswith("| total"))
    assert "54,401,602" in total  # counted in the original code
    assert main(["cost", name, "--num-classes", "3"]) == 2
    assert f"--num-classes requires a network name, but {name} is a published checkpoint" in capsys.readouterr().err
    assert main(["cost", "mmdet1/mask_rcnn_r4_gcb_c3-c5_r50_fpn"]) == 2
    assert 'did you mean "mmdet1/mask_rcnn_r4_gcb_c3-c5_r50_fpn_1x"' in capsys.readouterr().err
