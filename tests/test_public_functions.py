"""What the command line does is called from Python as well, with plain arguments."""

import inspect
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

import gcnet
from gcnet.cli import main
from gcnet.errors import UserError

FUNCTIONS = (
    "analyze",
    "check_data",
    "compare",
    "convert_checkpoint",
    "cost",
    "evaluate",
    "predict",
    "reproduce",
    "resume",
    "simplify",
    "train",
)


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


@pytest.fixture(scope="module")
def scenes_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model file with a non-local block that adds random vectors."""
    torch.manual_seed(3)
    model = gcnet.create_model("nl_scenes_resnet")
    with torch.no_grad():
        for _, parameter in gcnet.context_parameters(model):
            parameter.normal_(std=0.1)
    file = tmp_path_factory.mktemp("model") / "scenes.safetensors"
    gcnet.save_model(model, file, preprocessing={"image_size": 64})
    return str(file)


def test_an_evaluation_is_that_of_the_command_line(
    scenes_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"data": "scenes", "limit": 6, "device": "cpu"}
    result = gcnet.evaluate(scenes_model, **arguments, output=tmp_path / "python")
    assert capsys.readouterr().out == ""
    command = ["evaluate", scenes_model, "--data", "scenes", "--limit", "6", "--device", "cpu"]
    assert main([*command, "--output", str(tmp_path / "cli")]) == 0
    assert capsys.readouterr().out.startswith(str(result))
    for file in ("results.json", "per_class.csv"):
        assert (tmp_path / "python" / file).read_bytes() == (tmp_path / "cli" / file).read_bytes()
    assert (
        result.scores["top1_fraction"] == json.loads((tmp_path / "cli" / "results.json").read_text())["top1_fraction"]
    )
    assert result.images == 6


def test_a_prediction_is_that_of_the_command_line(
    scenes_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (70, 64), (200, 10, 90)).save(tmp_path / "red.png")
    (tmp_path / "broken.png").touch()
    paths = [tmp_path / "broken.png", tmp_path / "red.png"]
    predictions = gcnet.predict(paths, model=scenes_model, device="cpu", csv=tmp_path / "python.csv")
    assert [skipped.name for skipped in predictions.skipped] == [str(paths[0])]
    capsys.readouterr()
    command = ["predict", *map(str, paths), "--model", scenes_model, "--device", "cpu", "--csv"]
    assert main([*command, str(tmp_path / "cli.csv")]) == 0
    assert capsys.readouterr().out == f"{predictions}\n"
    assert (tmp_path / "python.csv").read_bytes() == (tmp_path / "cli.csv").read_bytes()


def test_statistics_of_attention_are_those_of_the_command_line(scenes_model: str, tmp_path: Path) -> None:
    statistics = gcnet.analyze(
        scenes_model, statistics=True, data="scenes", limit=3, device="cpu", output=tmp_path / "python"
    )
    command = ["analyze", scenes_model, "--statistics", "--data", "scenes", "--limit", "3", "--device", "cpu"]
    assert main([*command, "--output", str(tmp_path / "cli")]) == 0
    assert (tmp_path / "python" / "statistics.csv").read_bytes() == (tmp_path / "cli" / "statistics.csv").read_bytes()
    assert [layer.is_shared for layer in statistics.layers] == [False]


def test_attention_maps_of_images_list_their_layers_as_data(scenes_model: str, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 10, 90)).save(tmp_path / "red.png")
    maps = gcnet.analyze(scenes_model, [tmp_path / "red.png"], device="cpu", output=tmp_path / "maps")
    (layer,) = maps.layers
    assert (layer.grid, layer.heads, layer.is_shared, layer.has_windows) == ((16, 16), 1, False, False)
    assert str(layer).split() == [layer.name, "16", "x", "16", "one", "for", "each", "query"]
    assert str(layer) in str(maps)


def test_a_simplified_network_is_that_of_the_command_line(scenes_model: str, tmp_path: Path) -> None:
    arguments = {"data": "scenes", "limit": 3, "all": True, "device": "cpu"}
    result = gcnet.simplify(scenes_model, **arguments, output=tmp_path / "python.safetensors")
    command = ["simplify", scenes_model, "--data", "scenes", "--limit", "3", "--all", "--device", "cpu", "--output"]
    assert main([*command, str(tmp_path / "cli.safetensors")]) == 0
    assert (tmp_path / "python.safetensors").read_bytes() == (tmp_path / "cli.safetensors").read_bytes()
    assert (len(result.replaced), dict(result.unchanged)) == (1, {})


def test_a_check_of_data_is_that_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / "pets" / split / name / "1.png")
    report = gcnet.check_data(tmp_path / "pets", output=tmp_path / "python")
    assert report.has_issues
    assert main(["check-data", str(tmp_path / "pets"), "--output", str(tmp_path / "cli")]) == 1
    assert capsys.readouterr().out.startswith(str(report))
    assert (tmp_path / "python" / "report.json").read_bytes() == (tmp_path / "cli" / "report.json").read_bytes()


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
        ("cost", {"model": "resnet18", "device": "cpu"}, "`device` requires `measure`"),
        ("reproduce", {"table": "design"}, "`scale` is required"),
        ("reproduce", {"table": "design", "cost_only": True}, 'unknown argument "cost_only"'),
    ],
)
def test_usage_errors_name_arguments_instead_of_flags(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        getattr(gcnet, name)(**arguments)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: gcnet.evaluate("m.safetensors", limit=0), "`limit` must be at least 1, found 0"),
        (lambda: gcnet.evaluate(torch.nn.Linear(2, 2)), "`model` must be a string or None, found"),
        (lambda: gcnet.predict([], model="m.safetensors"), "`paths` must contain at least one image or folder"),
        (lambda: gcnet.predict("a.png"), "`model` is required"),
        (lambda: gcnet.analyze("m.safetensors"), "gcnet analyze needs `images`, or `statistics` with `data`"),
        (lambda: gcnet.cost(), "gcnet cost needs at least one model, such as gc_resnet50"),
    ],
)
def test_errors_of_functions_name_arguments_and_show_no_command_line(call, sentence):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value).startswith(sentence)
    assert "--" not in str(error.value) and "\n" not in str(error.value)


def test_blocks_and_variants_of_a_comparison_exclude_each_other():
    with pytest.raises(UserError, match="`blocks` and `variants` exclude each other"):
        gcnet.compare(blocks="none,gc", variants=["none", "se"])


def test_a_device_is_given_by_name_or_as_torch_device(scenes_model: str, tmp_path: Path) -> None:
    by_name, by_device = (
        gcnet.evaluate(scenes_model, data="scenes", limit=2, device=device) for device in ("cpu", torch.device("cpu"))
    )
    assert by_name.scores == by_device.scores
    with pytest.raises(UserError, match='`device` takes auto, cpu, cuda or cuda:N, found "meta"'):
        gcnet.resume(_run_folder(tmp_path), device=torch.device("meta"))


def _run_folder(parent: Path) -> Path:
    """A run folder without a checkpoint."""
    config = {"format_version": 2, "settings": {}}
    (parent / "run").mkdir()
    (parent / "run" / "config.json").write_text(json.dumps(config))
    return parent / "run"


def test_too_many_positional_arguments_are_counted_in_the_error():
    with pytest.raises(TypeError, match=r"evaluate\(\) takes 1 positional argument but 2 were given"):
        gcnet.evaluate("m.safetensors", "photos")
