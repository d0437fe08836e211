"""`gcnet convert`: from a checkpoint of another library to a model file."""

from pathlib import Path

import pytest
import torch

from checkpoint_layouts import layout
from gcnet.checkpoints.network_sources import NETWORK_SOURCES
from gcnet.cli import main
from gcnet.models.card import card_of
from gcnet.models.load import load_model

SMALL = "mmdet/faster_rcnn_r18_3_classes"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("checkpoint") / "faster_rcnn_r50.pth"
    torch.save(layout(SMALL).checkpoint(), file)
    return file


def test_source_network_and_warnings_are_printed_and_the_model_file_is_written(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "model.safetensors"
    assert main(["convert", str(checkpoint), "--output", str(output)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("source: mmdet\nnetwork: faster_rcnn_resnet18\nclasses: 3\n")
    assert printed.out.endswith(f"wrote {output}\n")
    assert 'is called "faster_rcnn_r50.pth", which says ResNet-50, but its weights have ResNet-18' in printed.err
    assert card_of(load_model(output)).class_names == ("class 0", "class 1", "class 2")


def test_the_help_lists_every_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--help"]) == 0
    printed = capsys.readouterr().out
    assert [name for name in NETWORK_SOURCES if name not in printed] == []


def test_the_source_can_be_given_and_errors_name_the_flags(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "model.safetensors")
    assert main(["convert", str(checkpoint), "--output", output, "--from", "mmdet1"]) == 2
    assert "is not a whole checkpoint of mmdet1: it lacks bbox_head.fc_cls.bias" in capsys.readouterr().err
    assert main(["convert", str(checkpoint), "--output", output, "--ema"]) == 2
    assert "--ema: " in capsys.readouterr().err
    assert main(["convert", str(checkpoint), "--output", str(tmp_path / "model.pth")]) == 2
    assert "--output must be a new model file ending in .safetensors" in capsys.readouterr().err
    two = str(tmp_path / "two.pth")
    torch.save({name: torch.ones(2) for name in ("backbone.conv1.weight", "head.fc.weight", "decode_head.w")}, two)
    assert main(["convert", two, "--output", output]) == 2
    assert "give --from" in capsys.readouterr().err


def test_existing_files_are_overwritten_only_on_request_and_the_checkpoint_never(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model.safetensors"
    output.write_text("notes")
    assert main(["convert", str(checkpoint), "--output", str(output)]) == 2
    assert "model.safetensors exists already; --overwrite replaces it" in capsys.readouterr().err
    assert output.read_text() == "notes"
    assert main(["convert", str(checkpoint), "--output", str(output), "--overwrite"]) == 0
    converted = output.read_bytes()
    assert main(["convert", str(output), "--to", "timm", "--output", str(output), "--overwrite"]) == 2
    assert "--output must be another file than the checkpoint" in capsys.readouterr().err
    assert output.read_bytes() == converted


def test_a_url_as_output_is_refused(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(checkpoint), "--output", "https://example.com/model.safetensors"]) == 2
    assert "--output must be a path on this machine, found the URL https" in capsys.readouterr().err
    assert not Path("https:").exists()
