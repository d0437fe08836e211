"""`gcnet simplify`: from a model file and images to a new model file, the same in all but the blocks replaced."""

from pathlib import Path

import pytest
import torch

from cli.animals import CLASSES
from gcnet.cli import main
from gcnet.insertion import context_parameters, insert
from gcnet.models.create import create_model
from gcnet.models.model_file import save_model
from gcnet.tasks.classification.trained import TrainedClassifier
from gcnet.tasks.trained import open_trained


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Blocks whose queries agree (layer1.0), whose queries do not (layer1.1), of dot products, and with one map."""
    model = create_model("cifar_resnet20", num_classes=3)
    insert(model, "nl_embedded_gaussian", stages=(1,), blocks=(0, 1))
    insert(model, "nl_dot_product", stages=(2,), blocks=(0,))
    insert(model, "gc", stages=(3,), blocks=(0,))
    with torch.no_grad():
        for name, parameter in context_parameters(model):
            parameter.normal_()
            if name == "layer1.0.context.context.query.weight":
                parameter.zero_()
    return save(model, tmp_path / "mixed.safetensors")


def save(model: torch.nn.Module, path: Path) -> Path:
    save_model(model, path, preprocessing={"image_size": 16}, class_names=CLASSES)
    return path


def run(model: Path, photos: Path, output: Path, *arguments: str) -> int:
    options = ["--data", str(photos), "--output", str(output), "--device", "cpu", *arguments]
    return main(["simplify", str(model), *options])


def kinds(path: Path) -> dict[str, str]:
    """The context of each inserted block of a file."""
    model = open_trained(str(path)).trained.model
    return {
        name: type(module.get_submodule("context")).__name__
        for name, module in model.named_modules()
        if name.count(".") == 2 and name.endswith(".context")
    }


@pytest.mark.slow
def test_blocks_whose_queries_agree_are_replaced_and_the_answers_stay(
    photos: Path, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "simple.safetensors"
    before = mixed.read_bytes()
    assert run(mixed, photos, output) == 0
    assert mixed.read_bytes() == before
    assert kinds(output) == {
        "layer1.0.context": "AttentionPool",
        "layer1.1.context": "NonLocal",
        "layer2.0.context": "NonLocal",
        "layer3.0.context": "AttentionPool",
    }
    old, new = open_trained(str(mixed)).trained, open_trained(str(output)).trained
    assert isinstance(old, TrainedClassifier)
    assert isinstance(new, TrainedClassifier)
    assert (new.class_names, new.preprocessing) == (old.class_names, old.preprocessing)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(new.model(images), old.model(images), rtol=1e-4, atol=1e-4)
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.split()}
    assert rows["layer1.0.context"].endswith("replaced by snl")
    assert "kept: it depends on the query" in rows["layer1.1.context"]
    assert "kept: its weights are not normalized over positions" in rows["layer2.0.context"]
    assert "layer3.0.context" not in rows
    assert rows["before"].split()[1:3] == rows["after"].split()[1:3]  # top-1 and its interval
    # From 4CC' + 3C' + C, C' = C/2 = 8, to C^2 + 2C + 1.
    parameters = [int(rows[title].split()[4].replace(",", "")) for title in ("before", "after")]
    assert parameters[0] - parameters[1] == (4 * 16 * 8 + 3 * 8 + 16) - (16 * 16 + 2 * 16 + 1)


@pytest.mark.slow
def test_a_file_evaluates_to_the_accuracy_printed(
    photos: Path, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "gc.safetensors"
    assert run(mixed, photos, output, "--all", "--block", "gc", "--ratio", "2") == 0
    assert kinds(output)["layer1.1.context"] == "AttentionPool"
    printed = capsys.readouterr().out
    assert "their bottlenecks are new, with zero output" in printed
    accuracy = next(line.split()[1] for line in printed.splitlines() if line.startswith("after"))
    assert main(["evaluate", "--model", str(output), "--data", str(photos), "--device", "cpu"]) == 0
    assert f"top-1    {accuracy} " in capsys.readouterr().out


def test_where_nothing_can_be_replaced_nothing_is_written(
    photos: Path, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "simple.safetensors"
    assert run(mixed, photos, output, "--threshold", "0") == 1
    assert "no block can be replaced, and nothing was written" in capsys.readouterr().err
    assert not output.exists()


def test_networks_and_settings_that_cannot_work_get_one_sentence(
    photos: Path, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = save(create_model("gc_cifar_resnet20", num_classes=3), tmp_path / "plain.safetensors")
    link = tmp_path / "link.safetensors"
    link.symlink_to(mixed)
    loop = tmp_path / "loop.safetensors"
    loop.symlink_to(loop)
    new = tmp_path / "new.safetensors"
    for model, output, arguments, sentence in (
        (loop, new, (), "cannot read"),
        (plain, new, (), "has no non-local blocks (nl_...)"),
        (mixed, mixed, (), "is the model itself"),
        (mixed, link, (), "is the model itself"),
        (mixed, plain, (), "plain.safetensors exists already; --overwrite replaces it"),
        (mixed, tmp_path / "new.pth", (), "ending in .safetensors"),
        (mixed, new, ("--ratio", "4"), "--ratio requires --block gc"),
        (mixed, new, ("--block", "gc", "--ratio", "0.5"), "--ratio must be at least 1, found 0.5"),
        (mixed, new, ("--threshold", "2"), "from 0 to 1, found 2"),
        (mixed, new, ("--threshold", "0.2", "--all"), "give one of --all and --threshold"),
        (mixed, new, ("--limit", "0"), "--limit must be at least 1, found 0"),
    ):
        assert run(model, photos, output, *arguments) == 2
        assert sentence in capsys.readouterr().err
    assert not new.exists()


def test_no_readable_image_is_exit_code_one(mixed: Path, tmp_path: Path) -> None:
    for name in CLASSES:
        (tmp_path / "empty" / name).mkdir(parents=True)
        (tmp_path / "empty" / name / "1.png").touch()
    assert run(mixed, tmp_path / "empty", tmp_path / "new.safetensors") == 1
