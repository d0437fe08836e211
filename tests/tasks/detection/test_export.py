"""Exported detectors: the detections of `gcnet.load` at every size, in standard operators."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import gcnet
from gcnet.errors import UserError
from gcnet.tasks.detection.export import detection_differences
from models.detector.test_mask_rcnn import calibrated

pytestmark = pytest.mark.usefixtures("unchecked_shapes")
NETWORKS = (
    ("mask_rcnn_gc_scenes_resnet", "mmdet"),
    ("mask_rcnn_nl_scenes_resnet", "mmdet1"),
    ("mask_rcnn_se_scenes_resnet", "torchvision"),
    ("cascade_mask_rcnn_scenes_resnet", "mmdet"),
)
SIZES = ((97, 131), (211, 67), (53, 61), (128, 200), (307, 401))
NARROW = {"fpn_channels": 32, "head_width": 64, "image_size": (128, 200), "detections_per_image": 40}


def saved(folder: Path, name: str, conventions: str) -> Path:
    """A detector that finds objects of several classes with scores far apart."""
    torch.manual_seed(0)
    model = calibrated(gcnet.create_model(name, num_classes=3, detector={**NARROW, "conventions": conventions}))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "cls_score.weight" in key:
                parameter.mul_(8)
    gcnet.save_model(model, folder / "model.safetensors", class_names=["A", "B", "C"])
    return folder / "model.safetensors"


@pytest.fixture(scope="module", params=NETWORKS, ids="-".join)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model file, and its ONNX file."""
    folder = tmp_path_factory.mktemp("detector")
    model = saved(folder, *request.param)
    jaxtyping.config.update("jaxtyping_disable", True)  # as the fixture unchecked_shapes, which is set up later
    result = gcnet.export(str(model), output=folder / "model.onnx")
    assert all((difference.detections or 0) > 10 for difference in result.differences)
    return model, folder / "model.onnx"


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height)))


def run(file: Path, images: list[np.ndarray]) -> list[dict[str, Any]]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    batch = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {"images": batch}), strict=True))
    return [{name: values[index] for name, values in outputs.items()} for index in range(len(images))]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_detections_are_those_of_the_predictor_in_the_same_order(exported: tuple[Path, Path], count: int) -> None:
    model, file = exported
    predictor = gcnet.load(str(model), device="cpu")
    for size in SIZES if count == 1 else SIZES[:1]:
        images = [picture(*size, seed=seed) for seed in range(count)]
        expected = predictor(images, threshold=0.05, batch_size=count)
        for result, image in zip(run(file, images), expected.images, strict=True):
            assert_equal(result, image)


def assert_equal(result: Mapping[str, Any], image: Any) -> None:
    """The outputs for an image are those of the predictor."""
    assert result["count"] == len(image.scores) > 0
    rows = slice(0, int(result["count"]))
    np.testing.assert_allclose(result["scores"][rows], image.scores, atol=1e-4)
    assert ["ABC"[label - 1] for label in result["labels"][rows]] == list(image.labels)
    np.testing.assert_allclose(result["boxes"][rows], image.boxes, atol=0.1)


@pytest.mark.slow
def test_all_operators_are_standard_ones_and_the_metadata_have_the_classes(exported: tuple[Path, Path]) -> None:
    content = onnx.load(exported[1])
    assert {node.domain for node in content.graph.node} == {""}
    assert not content.functions
    assert {"NonMaxSuppression", "RoiAlign"} <= {node.op_type for node in content.graph.node}
    metadata = {entry.key: entry.value for entry in content.metadata_props}
    assert json.loads(metadata["class_names"]) == ["A", "B", "C"]
    assert metadata["task"] == "detection"


@pytest.mark.slow
def test_an_image_without_detections_has_a_count_of_zero(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = gcnet.create_model("mask_rcnn_scenes_resnet", num_classes=3, detector=NARROW)
    with torch.no_grad():
        model.get_parameter("roi_heads.box_predictor.cls_score.bias")[0] = 50.0  # all background
    gcnet.save_model(model, tmp_path / "model.safetensors")
    exported = gcnet.export(str(tmp_path / "model.safetensors"), output=tmp_path / "model.onnx")
    assert "0 detections compared" in str(exported)
    assert "there is no detection in these images, so that no scores and boxes were compared" in caplog.text
    (result,) = run(tmp_path / "model.onnx", [picture(97, 131)])
    assert not any(np.any(values) for values in result.values())


PROGRAM = """
import sys
import numpy as np
import torch
import gcnet.ops.group_suppression  # the operator of the program

program = torch.export.load(sys.argv[1]).module()
outputs = program(torch.from_numpy(np.load(sys.argv[2])))
np.savez(sys.argv[3], boxes=outputs[0], scores=outputs[1], labels=outputs[2], count=outputs[3])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "conventions"),
    [*NETWORKS[2:], *(pytest.param(*network, marks=pytest.mark.scale) for network in NETWORKS[:2])],
)
def test_a_program_of_torch_export_runs_in_another_process(name: str, conventions: str, tmp_path: Path) -> None:
    model = saved(tmp_path, name, conventions)
    gcnet.export(str(model), output=tmp_path / "model.pt2")
    images = [picture(97, 131, seed=seed) for seed in range(2)]
    np.save(tmp_path / "images.npy", np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255)
    files = [str(tmp_path / name) for name in ("model.pt2", "images.npy", "outputs.npz")]
    subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM, *files], check=True, timeout=300)
    outputs = np.load(tmp_path / "outputs.npz")
    predictions = gcnet.load(str(model), device="cpu")(images, threshold=0.05, batch_size=2)
    for index, expected in enumerate(predictions.images):
        assert_equal({name: outputs[name][index] for name in outputs.files}, expected)


def test_half_precision_of_a_detector_is_refused(tmp_path: Path) -> None:
    model = gcnet.create_model("mask_rcnn_scenes_resnet", num_classes=3, detector=NARROW)
    gcnet.save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="`precision` of a detector must be float32, found fp16"):
        gcnet.export(str(tmp_path / "model.safetensors"), output=tmp_path / "model.onnx", precision="fp16")


def test_int8_of_a_detector_is_refused_before_its_accuracy_is_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = gcnet.create_model("mask_rcnn_scenes_resnet", num_classes=3, detector=NARROW)
    file, photos = tmp_path / "model.safetensors", tmp_path / "photos"
    gcnet.save_model(model, file)
    photos.mkdir()
    Image.fromarray(picture(8, 8)).save(photos / "a.png")
    with pytest.raises(UserError, match="`precision` of a detector must be float32, found int8"):
        gcnet.export(str(file), output=tmp_path / "model.onnx", precision="int8", calibrate=photos)
    assert "accuracy" not in caplog.text


def result(*objects: tuple[float, int, float]) -> dict[str, torch.Tensor]:
    """One image with four rows, of objects with a score, a label and the left of their box."""
    rows = [*objects, *[(0.0, 0, 0.0)] * (4 - len(objects))]
    boxes = torch.tensor([[left, 0, left + 9, 9] for _, _, left in rows])
    scores, labels = torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])
    return {"boxes": boxes[None], "scores": scores[None], "labels": labels[None], "count": torch.tensor([len(objects)])}


@pytest.mark.parametrize(
    ("other", "score", "box"),
    [
        (result((0.9, 1, 5.0), (0.9, 2, 50.0)), 0.0, 0.0),
        (result((0.9, 2, 50.0), (0.9, 1, 5.0)), 0.0, 0.0),  # equal scores have no order
        (result((0.9, 2, 50.0), (0.88, 1, 7.0)), 0.02, 2.0),
        (result((0.9, 2, 50.0)), 0.9, 0.0),  # a missing detection
        (result((0.9, 1, 5.0), (0.9, 2, 50.0), (0.7, 3, 9.0)), 0.7, 0.0),  # an additional one
    ],
)
def test_detections_are_compared_with_the_nearest_of_their_class(
    other: dict[str, torch.Tensor], score: float, box: float
) -> None:
    expected = result((0.9, 1, 5.0), (0.9, 2, 50.0))
    found = detection_differences(expected, other)
    assert found == {"score": pytest.approx(score, abs=1e-6), "box in pixels": pytest.approx(box)}
