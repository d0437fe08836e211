"""`gcnet.export` from a model file to files, their comparison, metadata and accuracy."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import gcnet
from gcnet.cli import main
from gcnet.errors import Failure, UserError
from gcnet.exporters.onnx_file import run_onnx
from gcnet.workflows import export as module

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unchecked_shapes")]
CLASSES = ("dark", "bright")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier whose classes are dark and bright images."""
    torch.manual_seed(0)
    model = gcnet.create_model("gc_cifar_resnet20", num_classes=2)
    file = tmp_path_factory.mktemp("model") / "brightness.safetensors"
    gcnet.save_model(model, file, preprocessing={"image_size": 32, "mean": [0.4] * 3}, class_names=CLASSES)
    return file


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labeled images, one of them damaged."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for number in range(4):
            pixels = random.integers(100 * label, 100 * label + 90, (40, 37, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    (folder / "dark" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def test_the_file_gives_the_logits_of_the_network_for_normalized_images(model_file: Path, tmp_path: Path) -> None:
    exported = gcnet.export(str(model_file), output=tmp_path / "new" / "net.onnx", dynamic="batch,size")
    images = torch.rand(3, 3, 48, 32)
    run = run_onnx((tmp_path / "new" / "net.onnx").read_bytes(), threads=1)
    with torch.no_grad():
        mean, std = torch.tensor(0.4), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        expected = gcnet.load_model(model_file)((images - mean) / std)
    torch.testing.assert_close(run(images)[0], expected, atol=1e-5, rtol=1e-5)
    assert [difference.quantity for difference in exported.differences] == [
        "probability",
        "logit, relative to the largest",
    ]
    assert str(tmp_path / "new" / "net.onnx") in str(exported)


def test_the_file_is_of_the_fused_network_unless_told_otherwise(tmp_path: Path) -> None:
    model = gcnet.create_model("gc_resnet50", num_classes=2)
    gcnet.save_model(model, tmp_path / "net.safetensors", preprocessing={"image_size": 64}, class_names=CLASSES)
    sizes = {}
    for fuse in (True, False):
        exported = gcnet.export(str(tmp_path / "net.safetensors"), output=tmp_path / f"{fuse}.onnx", fuse=fuse)
        sizes[fuse] = exported.files[tmp_path / f"{fuse}.onnx"]
    assert sizes[True] < sizes[False] - 3e6  # the first layers of the bottlenecks have a quarter of the columns


def test_metadata_name_the_classes_the_preprocessing_the_blocks_and_the_source(
    model_file: Path, tmp_path: Path
) -> None:
    exported = gcnet.export(str(model_file), output=tmp_path / "net.onnx")
    stored = {entry.key: entry.value for entry in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert stored == dict(exported.metadata)
    assert json.loads(stored["class_names"]) == list(CLASSES)
    steps = json.loads(stored["preprocessing"])
    assert (steps["image_size"], steps["resize"], steps["interpolation"]) == (32, 32, "bilinear")
    assert "mean" not in steps and "std" not in steps
    assert stored["source_sha256"] == hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert (stored["task"], stored["gcnet_version"], stored["source"]) == (
        "classification",
        gcnet.__version__,
        "brightness.safetensors",
    )
    assert json.loads(stored["blocks"])[0]["block"] == "gc"


def test_outputs_beyond_the_tolerance_leave_no_file_and_exit_with_1(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Failure, match="differ too much from PyTorch's, and nothing was written: probability"):
        gcnet.export(str(model_file), output=tmp_path / "net.onnx", precision="fp16", tolerance=1e-9)
    words = ["export", str(model_file), "--output", str(tmp_path / "net.onnx"), "--precision", "fp16"]
    assert main([*words, "--tolerance", "1e-9"]) == 1
    assert "differ too much" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_fp16_halves_the_file_and_keeps_the_source_in_float32(model_file: Path, tmp_path: Path) -> None:
    sizes = []
    for precision in ("float32", "fp16"):
        exported = gcnet.export(str(model_file), output=tmp_path / f"{precision}.onnx", precision=precision)
        sizes += exported.files.values()
    assert 0.45 < sizes[1] / sizes[0] < 0.65
    assert exported.differences[0].largest > 0


def test_int8_prints_accuracy_before_and_after_and_lists_unreadable_images(
    model_file: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "int8.onnx"
    words = ["export", str(model_file), "--precision", "int8", "--calibrate", str(photos), "--output", str(output)]
    assert main(words) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[2].startswith("float32: top-1") and lines[3].startswith("int8: top-1")
    assert printed.err.count("damaged.png") == 1
    operators = {node.op_type for node in onnx.load(output).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    assert {node.domain for node in onnx.load(output).graph.node} == {""}
    stored = {entry.key for entry in onnx.load(output).metadata_props}
    assert {"class_names", "preprocessing", "source_sha256"} <= stored


def test_int8_without_labels_calibrates_without_accuracy(model_file: Path, photos: Path, tmp_path: Path) -> None:
    exported = gcnet.export(
        str(model_file), output=tmp_path / "int8.onnx", precision="int8", calibrate=photos / "bright"
    )
    assert (exported.before, exported.after, exported.images) == (None, None, 4)


def test_a_failing_comparison_of_nan_is_no_success(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = lambda *_: (module.Difference("probability", float("nan"), 1.0),)  # noqa: E731
    monkeypatch.setattr(module, "compare_outputs", nan)
    with pytest.raises(Failure):
        gcnet.export(str(model_file), output=tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_network_for_one_image_size_refuses_dynamic_sizes(name: str, tmp_path: Path) -> None:
    gcnet.save_model(
        gcnet.create_model(name, num_classes=2), tmp_path / "m.safetensors", preprocessing={"image_size": 224}
    )
    with pytest.raises(UserError, match="`dynamic=size` requires a network for images of any size, but .* 224 x 224"):
        gcnet.export(str(tmp_path / "m.safetensors"), output=tmp_path / "m.onnx", dynamic="size")


def test_images_of_a_classifier_are_square(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`image_size` of a classifier is one side of its square images, found 32 48"):
        gcnet.export(str(model_file), output=tmp_path / "m.onnx", image_size=(32, 48))


def test_a_network_whose_logits_are_all_zero_is_exported(tmp_path: Path) -> None:
    model = gcnet.create_model("cifar_resnet20", num_classes=2)
    (layer,) = (module for module in model.modules() if isinstance(module, torch.nn.Linear))
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    gcnet.save_model(model, tmp_path / "m.safetensors", preprocessing={"image_size": 32})
    exported = gcnet.export(str(tmp_path / "m.safetensors"), output=tmp_path / "m.pt2")
    assert [difference.largest for difference in exported.differences] == [0.0, 0.0]
