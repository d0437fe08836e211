"""`gcnet analyze` from images and data sets to pictures, a page, tables and one sentence."""

import csv
import os
from pathlib import Path

import pytest
import torch

from cli.animals import CLASSES
from gcnet.cli import analyze as command
from gcnet.cli import main
from gcnet.cli.log_output import printed_messages
from gcnet.data.settings import PreprocessingSettings
from gcnet.errors import UserError
from gcnet.insertion import insert
from gcnet.models.create import create_model
from gcnet.models.load import load_model
from gcnet.models.model_file import save_model
from gcnet.tasks.settings import AnalyzeSettings

run = printed_messages()(command.run)


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    """A network with attention for each query in stage 1, one map in stage 2, and gates in stage 3."""
    model = create_model("cifar_resnet20", num_classes=3)
    insert(model, "nl_embedded_gaussian", stages=(1,), blocks=(0,))
    insert(model, "gc", stages=(2,), blocks=(0,))
    insert(model, "se", stages=(3,), blocks=(0,))
    with torch.no_grad():
        model.get_submodule("layer1.0.context.add.transform").weight.normal_()
    path = tmp_path / "mixed.safetensors"
    save_model(model, path, preprocessing={"image_size": 16}, class_names=CLASSES)
    return str(path)


def test_images_become_pictures_and_a_page(
    photos: Path, mixed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.png").write_text("no image")
    output = tmp_path / "out"
    assert run(AnalyzeSettings(mixed, (photos,), points=("0.5,0.5", "0,0"), output=output, device="cpu")) == 0
    names = {path.name for path in output.iterdir()}
    assert len(names) == 7 * 2 + 2
    assert {"index.html", "gates.png"} < names
    printed = capsys.readouterr()
    lines = [line.split(maxsplit=4) for line in printed.out.splitlines()]
    assert ["layer1.0.context", "16", "x", "16", "one for each query"] in lines
    assert ["layer2.0.context", "8", "x", "8", "one for all queries"] in lines
    assert "7 of 8 images analyzed, 1 skipped" in printed.err
    assert f"skipped {photos / 'broken.png'}: not an image" in printed.err


def test_a_model_file_may_have_any_name_the_system_allows(photos: Path, mixed: str, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff.safetensors")
    os.rename(mixed, odd)
    assert main(["analyze", odd, str(photos), "--limit", "1", "--output", str(tmp_path / "out")]) == 0
    assert "Attention maps of" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_weights_that_are_not_finite_give_no_pictures(
    photos: Path, mixed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(mixed)
    with torch.no_grad():
        model.get_submodule("linear").weight.fill_(float("nan"))
    save_model(model, mixed)
    assert main(["analyze", mixed, str(photos), "--output", str(tmp_path / "out")]) == 2
    assert "the network's outputs must be finite numbers; those for" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_limit_takes_images_evenly(photos: Path, mixed: str, tmp_path: Path) -> None:
    assert run(AnalyzeSettings(mixed, (photos,), limit=2, output=tmp_path / "out", device="cpu")) == 0
    assert len(list((tmp_path / "out").glob("*-queries.png"))) == 2


def test_statistics_are_printed_written_and_drawn(
    photos: Path, mixed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    settings = AnalyzeSettings(mixed, statistics=True, data=str(photos), batch_size=3, output=output, device="cpu")
    assert run(settings) == 0
    assert {path.name for path in output.iterdir()} == {"statistics.csv", "statistics.png", "gates.png"}
    with open(output / "statistics.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["layer"], first["positions"], first["images"]) == ("layer1.0.context", "16x16", "7")
    assert 0 < float(first["output_low"]) <= float(first["output"]) <= float(first["output_high"]) < 1
    assert (second["shared"], float(second["attention"])) == ("True", 0)
    text = capsys.readouterr().out
    assert "layer1.0.context  0." in text
    assert "1 of 1 layer is effectively query-independent (cosine distance <= 0.1): layer1.0.context." in text
    assert "Replacing it with gc would take" in text


def test_a_network_with_shared_maps_has_input_distances_only(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model("cifar_resnet20", block="gc", at=["layer1.0", "layer2.0"])
    save_model(model, tmp_path / "gc.safetensors", preprocessing={"image_size": 16})
    output = tmp_path / "out"
    settings = AnalyzeSettings(
        str(tmp_path / "gc.safetensors"), statistics=True, data=str(photos), output=output, device="cpu"
    )
    assert run(settings) == 0
    text = capsys.readouterr().out
    assert text.startswith("query-independent by construction: every layer has one attention map for all positions")
    titles = next(line for line in text.splitlines() if line.startswith("layer "))
    assert titles.split() == ["layer", "input"] and "one map " not in text.split("layer ", 1)[1].split("\n\n")[0]
    assert (output / "statistics.png").exists()


def test_a_network_without_attention_and_gates_is_refused(photos: Path, tmp_path: Path) -> None:
    save_model(create_model("cifar_resnet20"), tmp_path / "plain.safetensors", preprocessing={"image_size": 16})
    model = str(tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="neither attention over positions nor gates of channels to show"):
        run(AnalyzeSettings(model, (photos,), output=tmp_path / "out", device="cpu"))
    with pytest.raises(UserError, match="neither attention over positions nor gates of channels to measure"):
        run(AnalyzeSettings(model, statistics=True, data=str(photos), output=tmp_path / "out", device="cpu"))
    assert not (tmp_path / "out").exists()


def test_gates_alone_make_a_picture_and_no_page(photos: Path, tmp_path: Path) -> None:
    save_model(create_model("se_cifar_resnet20"), tmp_path / "se.safetensors", preprocessing={"image_size": 16})
    output = tmp_path / "out"
    assert run(AnalyzeSettings(str(tmp_path / "se.safetensors"), (photos,), output=output, device="cpu")) == 0
    assert [path.name for path in output.iterdir()] == ["gates.png"]


def test_no_readable_image_is_exit_code_one(mixed: str, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    assert run(AnalyzeSettings(mixed, (tmp_path / "empty.jpg",), output=tmp_path / "out", device="cpu")) == 1
    assert not (tmp_path / "out").exists()


def test_weights_by_name_have_the_preprocessing_of_their_network(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(create_model("gc_cifar_resnet20").state_dict(), tmp_path / "weights.pth")
    settings = {"weights": str(tmp_path / "weights.pth"), "output": tmp_path / "out", "device": "cpu", "limit": 1}
    assert run(AnalyzeSettings("gc_cifar_resnet20", (photos,), **settings)) == 0
    assert "preprocessing: 32 x 32 pixels, mean 0.485 0.456 0.406" in capsys.readouterr().err
    size = PreprocessingSettings(image_size=16)
    assert run(AnalyzeSettings("gc_cifar_resnet20", (photos,), preprocessing=size, **settings)) == 0
    assert "preprocessing: 16 x 16 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("m.safetensors", "needs images, or --statistics with --data"),
        ("m.safetensors --statistics", "--statistics are measured over a data set: give --data"),
        ("m.safetensors a.png --statistics --data photos", "not over images; found a.png"),
        ("m.safetensors a.png --data photos", "--data requires --statistics"),
        ("m.safetensors --statistics --data photos --points grid", "--points is for images, not for --statistics"),
        ("m.safetensors a.png --limit 0", "--limit must be at least 1, found 0"),
        ("vit_tiny_patch16_224 a.png", "a model given by name requires trained weights"),
    ],
)
def test_invalid_settings_are_one_sentence(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", *arguments.split()]) == 2
    assert sentence in capsys.readouterr().err


def test_an_invalid_point_is_an_error_before_any_output(photos: Path, mixed: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='found "center"'):
        run(AnalyzeSettings(mixed, (photos,), points=("center",), output=tmp_path / "out", device="cpu"))
    assert not (tmp_path / "out").exists()
