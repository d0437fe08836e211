"""`gcnet analyze` with a detector: its backbone's attention inside each image, judged by running the block by hand."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gcnet.cli import analyze as command
from gcnet.cli.log_output import printed_messages
from gcnet.data.coco.loading import image_to_tensor
from gcnet.data.decode import open_image
from gcnet.data.scenes import Scenes
from gcnet.data.settings import PreprocessingSettings
from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.model_file import save_model
from gcnet.tasks.detection.attention import attention_of_detector
from gcnet.tasks.detection.trained import TrainedDetector
from gcnet.tasks.settings import AnalyzeSettings
from gcnet.workflows import attention_maps, attention_statistics

run = printed_messages()(command.run)

CLASSES = ("ball", "cube", "cone")
NL = "layer1.1.context"
AT_64 = PreprocessingSettings(image_size=64)


def build(name: str) -> nn.Module:
    """A detector of three classes on scenes_resnet, whose blocks add something."""
    torch.manual_seed(3)
    model = create_model(name, num_classes=3).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".context." in key and key.endswith("weight"):
                parameter.normal_(std=0.3)
    return model


def save(name: str, folder: Path) -> str:
    path = folder / f"{name}.safetensors"
    save_model(build(name), path, class_names=CLASSES, category_ids=(3, 7, 12))
    return str(path)


@pytest.fixture
def photos(tmp_path: Path, seed: int) -> Path:
    """A wide image, whose lower part of 64 x 64 pixels is padding, and a file that is no image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    values = np.random.default_rng(seed).integers(0, 256, (35, 64, 3), dtype=np.uint8)
    Image.fromarray(values).save(folder / "a.png")
    (folder / "b.png").write_text("no image")
    return folder


@torch.no_grad()
def attention_by_hand(model: Any, path: Path) -> tuple[Tensor, Tensor]:
    """The weights (P, P) of the non-local block over the padded image, and its inputs (P, C)."""
    block = model.backbone.body.get_submodule(NL)
    given: list[Tensor] = []
    hook = block.register_forward_hook(lambda _, arguments, __: given.append(arguments[0].clone()))
    model([image_to_tensor(open_image(path))])
    hook.remove()
    query, key = (getattr(block.context, name)(given[0]).flatten(2)[0].double() for name in ("query", "key"))
    return (query.T @ key / len(query) ** 0.5).softmax(-1), given[0].flatten(2)[0].T


def test_maps_are_those_of_the_network_without_the_padding(photos: Path) -> None:
    model = build("mask_rcnn_nl_scenes_resnet")
    maps = attention_of_detector(TrainedDetector(model, CLASSES, (1, 2, 3)), photos / "a.png")
    weights, _ = attention_by_hand(model, photos / "a.png")
    (layer,) = maps.layers
    assert layer.name == f"body.{NL}"
    height, width = layer.attention.grid
    side = round(len(weights) ** 0.5)
    assert (maps.image.size, width, height) == ((64, 35), side, -(-side * 35 // 64))
    by_hand = weights.view(side, side, side, side)
    for y, x in ((0.0, 0.0), (0.5, 0.3), (0.99, 0.99)):
        expected = by_hand[int(y * height), int(x * width), :height] * side * side
        assert layer.map_of((x, y)) == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)


def test_the_answer_counts_the_objects_that_the_network_is_sure_of(photos: Path) -> None:
    model = build("mask_rcnn_gc_scenes_resnet")
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias.copy_(torch.tensor([0.0, 0.0, 9.0, 0.0]))
        found = model([image_to_tensor(open_image(photos / "a.png"))])[0]
    expected = f"{int((found['scores'] > 0.5).sum())} cube"
    maps = attention_of_detector(TrainedDetector(model, CLASSES, (1, 2, 3)), photos / "a.png")
    assert maps.answer == expected
    assert [layer.attention.is_shared for layer in maps.layers] == [True] * len(maps.layers)


def test_images_become_pictures_and_a_page(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert (
        run(AnalyzeSettings(save("mask_rcnn_nl_scenes_resnet", tmp_path), (photos,), output=output, device="cpu")) == 0
    )
    assert {path.name for path in output.iterdir()} == {"index.html", "01-a-queries.png"}
    printed = capsys.readouterr()
    assert f"body.{NL}" in printed.out
    assert "1 of 2 images analyzed, 1 skipped" in printed.err


def test_gates_have_one_row_for_all_images(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = []
    for module in (attention_maps, attention_statistics):
        monkeypatch.setattr(module, "plot_gates", lambda gates, names, *_, **__: drawn.append((gates, names)))
    model = save("mask_rcnn_se_scenes_resnet", tmp_path)
    assert run(AnalyzeSettings(model, (photos / "a.png",), output=tmp_path / "out", device="cpu")) == 0
    settings = AnalyzeSettings(model, statistics=True, data="scenes", limit=2, output=tmp_path / "out", device="cpu")
    assert run(settings) == 0
    assert [names for _, names in drawn] == [["all images"]] * 2
    assert all(rows.shape[0] == 1 for gates, _ in drawn for _, rows in gates)
    assert "No module of this network attends to positions" in capsys.readouterr().out


def write_coco(folder: Path) -> tuple[Path, list[Path]]:
    """Two scenes, the first made wide, as COCO's validation images; the folder, and their files."""
    file = folder / "coco" / "annotations" / "instances_val.json"
    Scenes(2, split="val").write_coco(folder / "coco" / "val", file)
    content = json.loads(file.read_text())
    first = content["images"][0]
    first["height"] = 35
    paths = [folder / "coco" / "val" / image["file_name"] for image in content["images"]]
    with Image.open(paths[0]) as image:
        image.crop((0, 0, 64, 35)).save(paths[0])
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != first["id"]]
    file.write_text(json.dumps(content))
    return folder / "coco", paths


def mean_distance(vectors: Tensor) -> float:
    """Of all ordered pairs, one query after the other."""
    units = nn.functional.normalize(vectors.double(), dim=-1)
    return float(np.mean([((1 - units @ one) / 2).mean().item() for one in units]))


def test_statistics_are_over_the_positions_inside_each_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, paths = write_coco(tmp_path)
    model, output = save("mask_rcnn_nl_scenes_resnet", tmp_path), tmp_path / "out"
    assert run(AnalyzeSettings(model, statistics=True, data=str(folder), output=output, device="cpu")) == 0
    with open(output / "statistics.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    inputs, rows = [], []
    for path, height in zip(paths, (35, 64), strict=True):
        weights, given = attention_by_hand(build("mask_rcnn_nl_scenes_resnet"), path)
        side = round(len(weights) ** 0.5)
        inside = side * -(-side * height // 64)
        inputs.append(mean_distance(given[:inside]))
        rows.append(mean_distance(weights[:inside]))
    assert (row["layer"], row["images"]) == (f"body.{NL}", "2")
    assert float(row["input"]) == pytest.approx(np.mean(inputs), rel=1e-4)
    assert float(row["attention"]) == pytest.approx(np.mean(rows), rel=1e-4)
    assert "effectively query-independent" in capsys.readouterr().out


@pytest.mark.slow
def test_a_cascade_by_name_is_analyzed_on_scenes(tmp_path: Path) -> None:
    torch.save(build("cascade_mask_rcnn_gc_scenes_resnet").state_dict(), tmp_path / "weights.pth")
    changes: dict[str, Any] = {"weights": str(tmp_path / "weights.pth"), "output": tmp_path / "out", "device": "cpu"}
    settings = AnalyzeSettings("cascade_mask_rcnn_gc_scenes_resnet", statistics=True, data="scenes", limit=2, **changes)
    assert run(settings) == 0
    with open(tmp_path / "out" / "statistics.csv", newline="") as file:
        assert {row["shared"] for row in csv.DictReader(file)} == {"True"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"images": (Path("a.png"),), "preprocessing": AT_64},
            "`image_size=64` is only for classifiers, but .* is a detector",
        ),
        ({"statistics": True, "data": "scenes", "batch_size": 4}, "`batch_size` is only for classifiers"),
        ({"statistics": True, "data": "photos", "preprocessing": AT_64}, "`image_size=64` is only for classifiers"),
        ({"statistics": True, "data": "cifar10", "download_dir": "x"}, "`download_dir` is only for classifiers"),
        ({"statistics": True, "data": "cifar10"}, "nothing at .cifar10. .`data`.; a detector takes scenes"),
        ({"images": (Path("a.png"),)}, "neither attention over positions nor gates of channels to show"),
    ],
)
def test_invalid_settings_are_one_sentence(
    photos: Path, tmp_path: Path, changes: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    model = save("mask_rcnn_scenes_resnet", tmp_path)
    with pytest.raises(UserError, match=sentence):
        run(AnalyzeSettings(model, **({"output": tmp_path / "out", "device": "cpu"} | changes)))
    assert not (tmp_path / "out").exists()
