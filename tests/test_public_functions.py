"""What the command line does is called from Python as well, with plain arguments."""

import inspect
import json
import math
from pathlib import Path

import pytest

import gcnet
from gcnet.cli import main
from gcnet.errors import UserError

FUNCTIONS = ("compare", "cost", "reproduce", "resume", "train")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_in_the_signature_and_the_docstring(name: str) -> None:
    function = getattr(gcnet, name)
    text = inspect.getdoc(function) or ""
    for argument in inspect.signature(function).parameters:
        assert f"\n    {argument}: " in text, argument
    for section in ("Args:", "Returns:", "Raises:"):
        assert f"\n{section}\n" in text


def test_costs_are_those_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs = gcnet.cost("gc_cifar_resnet20", against="plain", image_size=[32], output=str(tmp_path / "python"))
    assert main(["cost", "gc_cifar_resnet20", "--against", "plain", "--output", str(tmp_path / "cli")]) == 0
    assert capsys.readouterr().out.startswith(str(costs))
    assert (tmp_path / "python" / "cost.csv").read_bytes() == (tmp_path / "cli" / "cost.csv").read_bytes()
    assert costs.reports[0].total.values["parameters"] == 278_719


def test_a_run_trained_and_resumed_from_python_is_that_of_the_command_line(tmp_path: Path) -> None:
    arguments = {"model": "cifar_resnet20", "data": "scenes", "limit_train": 8, "limit_val": 4, "batch_size": 4}
    common = {"image_size": 32, "plots": False, "device": "cpu"}
    result = gcnet.train(**arguments, **common, steps=2, output=str(tmp_path / "python"))
    assert (result.steps, result.finished) == (2, True)
    flags = [word for name, value in arguments.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    line = ["train", *flags, "--image-size", "32", "--no-plots", "--device", "cpu", "--steps", "2"]
    assert main([*line, "--output", str(tmp_path / "cli")]) == 0
    weights = [(tmp_path / one / "weights" / "last.safetensors").read_bytes() for one in ("python", "cli")]
    assert weights[0] == weights[1]
    configs = [json.loads((tmp_path / one / "config.json").read_text())["settings"] for one in ("python", "cli")]
    for config in configs:
        config["output"].pop("output")
    assert configs[0] == configs[1]
    longer = gcnet.resume(tmp_path / "python", steps=3)
    assert longer.steps == 3
    assert longer.last is not None
    assert math.isfinite(longer.last["val_loss"])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train", {"modle": "resnet18"}, 'unknown argument "modle"; did you mean "model"'),
        ("train", {"batch_size": 0}, "`batch_size` must be"),
        ("train", {"lr": "high"}, "`lr` must be a number or None, found 'high'"),
        ("compare", {"placement": "best"}, '`placement` must be "same" or "published"'),
        ("cost", {"model": "resnet18", "device": "cpu"}, "`device` belongs to `measure`"),
        ("reproduce", {"table": "design", "cost_only": True}, "`scale` must be full or small"),
    ],
)
def test_mistakes_name_arguments_instead_of_flags(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        getattr(gcnet, name)(**arguments)
    assert str(error.value).startswith(message)
