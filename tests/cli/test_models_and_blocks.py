"""`gcnet models` and `gcnet blocks`: every name is there, its counts hold, nothing published is without a source."""

import re

import pytest
import torch

from gcnet.analysis.cost import count_flops, count_parameters
from gcnet.blocks import BLOCKS
from gcnet.checkpoints.published_files import published_files
from gcnet.cli import main
from gcnet.models.create import create_model
from gcnet.models.registry import BASE_MODELS, list_models, small_input


def _rows(output: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in output.splitlines() if "|" in line]
    return {cells[0]: cells[1:] for cells in lines[2:]}


def test_every_block_is_listed_with_its_parts_and_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["blocks", "--channels", "512"]) == 0
    output = capsys.readouterr().out
    table, _, sources = output.partition("\n\n| block                | fusion")
    rows = _rows(table)
    assert list(rows) == list(BLOCKS)
    assert all("-" not in row[:2] for row in rows.values())
    assert max(len(line) for line in output.splitlines() if "|" in line) <= 100
    unpublished = {name for name, row in _rows(f"|{sources}").items() if "arXiv" not in row[-1]}
    assert unpublished == {"gct", "gc_eca", "gc_affine"}  # the first is in the proceedings of CVPR only
    # 2CP + 2C + 3P + 1 with P = 32; C^2 + 2C + 1; and 4CC' + 3C' + C with C' = 256.
    assert rows["gc"][2] == "33,889"
    assert rows["gc_eca"][2] == "518"
    assert rows["snl"][2] == "263,169"
    assert rows["nl_embedded_gaussian"][2] == "525,568"


def test_channels_that_a_block_refuses_are_reported_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["blocks", "--channels", "16", "--ratio", "16"]) == 0
    output = capsys.readouterr().out
    rows = _rows(output.partition("\n\n| block                | fusion")[0])
    assert [name for name, row in rows.items() if row[2] == "-"] == ["gc"]
    assert "\n  gc: --ratio must leave at least 2 channels" in output


@pytest.mark.parametrize(
    "arguments",
    [
        *(("blocks", "--channels", "100000000"), ("models", "--image-size", "1000000")),
        *(("models", "--model", "resnet18", "--num-classes", str(10**30)), ("sample-data", "photos", "--seed", "-1")),
    ],
    ids=" ".join,
)
def test_huge_numbers_are_refused_before_memory_is_allocated(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert re.search("at most 1[0-9,]+|--seed must be 0 or more", capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [("--channels", "0"), ("--dims", "4")], ids=" ".join)
def test_arguments_that_every_block_refuses_are_usage_errors(
    arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["blocks", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"gcnet: {arguments[0]} must be")


def test_options_are_listed_with_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["blocks"]) == 0
    output = capsys.readouterr().out
    assert "\n  snl: none\n" in output
    assert (
        "\n    ratio=16                      reduction ratio r, at least 1: the bottleneck has channels/r channels"
        in output
    )
    assert "\n    norm_eps=1e-05                added to the variance in LayerNorm\n" in output
    assert max(map(len, output.splitlines())) <= 150


def test_one_model_is_listed_with_published_numbers_and_their_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--model", "gc_resnet50"]) == 0
    output = capsys.readouterr().out
    assert _rows(output)["gc_resnet50"] == ["28,078,773", "8.20", "224 x 224"]
    assert "gc_resnet50: 77.70 [ECA] / 93.66 [ECA]" in output
    assert "[ECA] table of ECA-Net, arXiv 1910.03151" in output


def test_classes_and_size_change_the_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--model", "cifar_resnet20", "--num-classes", "3", "--image-size", "64"]) == 0
    parameters, flops, size = _rows(capsys.readouterr().out)["cifar_resnet20"]
    assert parameters == f"{269_722 - 7 * 65:,}"
    assert float(flops) == pytest.approx(4 * 0.0811, rel=0.01)
    assert size == "64 x 64"


def test_a_mistyped_model_gets_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--model", "gc_resnet5O"]) == 2
    assert 'did you mean "gc_resnet50"' in capsys.readouterr().err


@pytest.mark.slow
def test_every_model_is_listed_with_the_counts_of_the_network_built_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--num-classes", "7"]) == 0
    rows = _rows(capsys.readouterr().out)
    assert list(rows) == list_models()
    for index, base in enumerate(BASE_MODELS):
        name = ("gc_", "snl_", "se_", "nl_")[index % 4] + base
        with torch.device("meta"):
            model = create_model(name, num_classes=7)
        side = small_input(base) or 224
        flops = count_flops(model, (1, 3, side, side)) / 1e9
        assert rows[name] == [
            f"{count_parameters(model):,}",
            f"{flops:{'.2f' if flops >= 1 else '.3g'}}",
            f"{side} x {side}",
        ]


def test_a_detector_is_listed_with_its_parameters_and_flops(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--model", "mask_rcnn_gc_resnet50"]) == 0
    output = capsys.readouterr().out
    parameters, flops, size = _rows(output)["mask_rcnn_gc_resnet50"]
    assert (parameters, size) == (f"{44_400_693 + 2_521_741:,}", "800 x 1280")
    assert float(flops) == pytest.approx(2 * 259.47, abs=0.02)
    assert "count a multiply-add as two" in output
    assert "1000 RoIs for the box head and 100\nfor the mask head" in output


@pytest.mark.parametrize(
    ("arguments", "size"), [((), "64 x 64"), (("--image-size", "96"), "96 x 96")], ids=["own", "given"]
)
def test_a_small_detector_is_counted_at_its_own_size_or_the_one_given(
    arguments: tuple[str, ...], size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--model", "mask_rcnn_gc_scenes_resnet", *arguments]) == 0
    assert _rows(capsys.readouterr().out)["mask_rcnn_gc_scenes_resnet"][2] == size


def test_notes_on_rois_are_only_for_detectors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--model", "cifar_resnet20"]) == 0
    assert "regions" not in capsys.readouterr().out


def test_published_checkpoints_are_listed_in_lines_of_100_letters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--published"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    first = [line.split()[0] for line in lines if line]
    for file in published_files():
        assert file.name.partition("/")[2] in first


def test_published_checkpoints_of_one_task_or_library_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--published", "--task", "video"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("kinetics400" in line for line in lines) == 8
    assert main(["models", "--published", "--library", "mmdet"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mask_rcnn_r50_fpn_r16"))
    assert line.split()[1:] == ["39.7/35.9", "46.9"]


def test_details_of_a_published_checkpoint_have_url_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    name = "mmseg/gcnet_r50-d8_512x1024_40k_cityscapes"
    assert main(["models", "--published", "--model", name]) == 0
    output = capsys.readouterr().out
    assert main(["models", "--model", name]) == 0
    assert capsys.readouterr().out == output
    assert "mIoU 77.69, mIoU (ms+flip) 78.56 on Cityscapes val" in output
    assert "_20200618_074436-4b0fd17b.pth" in output and "49,630,215" in output
    assert "mmsegmentation 1.2.2" in output


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--library", "mmdet"), "--library requires --published"),
        (("--published", "--image-size", "64"), "--image-size is not for published checkpoints"),
        (("--published", "--task", "video", "--library", "timm"), "no published checkpoint of timm is for video"),
        (("--model", "mmdet/mask_rcnn", "--num-classes", "3"), "--num-classes is not for published checkpoints"),
        (("--model", "mmdet/mask_rcnn_r50_fpn_r4_gcb_c3-c5_1x"), 'did you mean "mmdet/mask_rcnn_r50_fpn_r4_gcb_c3-c5'),
        (("--published", "--model", "timm/gcresnet50t"), 'did you mean "timm/gcresnet50t.ra2_in1k"'),
    ],
    ids=["without", "size", "none", "classes", "unknown", "name"],
)
def test_a_mistake_in_listing_checkpoints_is_one_sentence(
    arguments: tuple[str, ...], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", *arguments]) == 2
    message = capsys.readouterr().err
    assert error in message and message.count("\n") == 1
