"""The script of docs/deploy.md gives the objects of `gcnet predict`, in an environment without torch."""

import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import gcnet
from gcnet.data.scenes import Scenes
from gcnet.exporters.onnx_file import set_metadata
from tasks.detection.test_export import picture, saved

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT = DOCS / "onnx_detect.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "conventions"),
    [
        ("mask_rcnn_scenes_resnet", "torchvision"),
        ("faster_rcnn_scenes_resnet", "mmdet"),
        pytest.param("mask_rcnn_scenes_resnet", "mmdet", marks=pytest.mark.scale),
        pytest.param("mask_rcnn_scenes_resnet", "mmdet1", marks=pytest.mark.scale),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_the_script_without_torch_gives_the_objects_of_the_predictor(
    name: str, conventions: str, python_without_torch: Path, tmp_path: Path
) -> None:
    model, file = saved(tmp_path, name, conventions), tmp_path / "model.onnx"
    gcnet.export(str(model), output=file)
    folder = tmp_path / "images"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(97, 211)).save(folder / "turned.jpg", exif=exif, quality=95)
    Scenes(1, size=128, seed=0).read(0).convert("RGBA").save(folder / "scene.png")
    paths = sorted(folder.iterdir())
    command = [python_without_torch, "-W", "error", SCRIPT, file, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for image in gcnet.load(str(model), device="cpu")(paths).images:
        own = [line.rpartition(": ")[2] for line in lines if line.startswith(f"{image.path}: ")]
        assert [line.split()[0] for line in own] == list(image.labels)
        assert [float(line.split()[1]) for line in own] == pytest.approx(list(image.scores), abs=1e-4)
        boxes = [[float(edge) for edge in line.split(" at ")[1].split(",")[0].split()] for line in own]
        np.testing.assert_allclose(np.reshape(boxes, (-1, 4)), image.boxes, atol=0.1)
        assert (image.masks is None) == name.startswith("faster")
        if image.masks is None:
            assert not any("pixels" in line for line in own)
            continue
        pixels = [int(line.split()[-2]) for line in own]
        np.testing.assert_allclose(pixels, image.masks.sum(axis=(1, 2)), atol=max(2, image.masks[0].size / 10_000))


def test_the_page_shows_the_script_of_at_most_40_lines() -> None:
    script = (SCRIPT).read_text()
    assert script in (DOCS / "deploy.md").read_text()
    assert len(script.splitlines()) <= 40


@pytest.mark.slow
@pytest.mark.parametrize(("script", "task"), [("onnx_classify.py", "detection"), ("onnx_detect.py", "classification")])
def test_the_scripts_refuse_files_of_the_other_task_and_print_their_usage(
    script: str, task: str, python_without_torch: Path, tmp_path: Path
) -> None:
    tensor = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["images"], ["y"])], "g", [tensor], [])
    graph.output.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1]))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    set_metadata(model, {"task": task})
    file = tmp_path / "other.onnx"
    file.write_bytes(model.SerializeToString())
    for words, message in (([file, "image.png"], f"{file} is not a "), ([file], "IMAGE ...")):
        done = subprocess.run([python_without_torch, DOCS / script, *words], capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert message in done.stderr
