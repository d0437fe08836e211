"""Detectors trained from a model file keep its conventions."""

from pathlib import Path

import pytest
import torch

import gcnet
from gcnet.cli import main
from gcnet.errors import UserError
from gcnet.tasks.detection.network import build_detector, with_detection_defaults
from gcnet.training.settings import TrainSettings, override

_NAME = "faster_rcnn_scenes_resnet"
_SMALL = {"image_size": (64, 64), "anchor_sizes": (24.0,), "rois_per_image": 32}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of mmdet1's conventions with three classes."""
    path = tmp_path_factory.mktemp("weights") / "detector.safetensors"
    model = gcnet.create_model(_NAME, num_classes=3, detector={"conventions": "mmdet1", "norm_eps": 1e-3, **_SMALL})
    gcnet.save_model(model, path)
    return path


def _settings(weights: Path | None, **changes: object) -> TrainSettings:
    given = override(TrainSettings(), model=_NAME, weights=None if weights is None else str(weights), **changes)
    return with_detection_defaults(given)


def test_conventions_are_those_of_the_weights_also_with_another_preset(weights: Path) -> None:
    assert _settings(weights).detector.conventions == "mmdet1"
    assert _settings(weights, preset="mmdet-1x").detector.conventions == "mmdet1"
    assert _settings(None).detector.conventions == "mmdet"
    assert _settings(weights.with_name("missing.safetensors")).detector.conventions == "mmdet"


def test_a_model_file_without_the_option_has_conventions_mmdet(tmp_path: Path) -> None:
    gcnet.save_model(gcnet.create_model(_NAME, num_classes=3), tmp_path / "plain.safetensors")
    assert _settings(tmp_path / "plain.safetensors", preset="paper-1x").detector.conventions == "mmdet"


def test_a_backbone_decides_no_conventions(weights: Path) -> None:
    assert _settings(None, backbone_weights=str(weights)).detector.conventions == "mmdet"


def test_the_network_has_all_options_of_the_weights_and_their_outputs(weights: Path) -> None:
    built = build_detector(_settings(weights), 3).eval()
    original = gcnet.load_model(weights)
    image = torch.rand(3, 61, 53)
    with torch.no_grad():
        for own, expected in zip(built([image]), original([image]), strict=True):
            assert all(torch.equal(own[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"conventions": "mmdet"},
            "`conventions=mmdet` gives other outputs than .* or give mmdet1",
        ),
        ({"box_head": "4conv1fc"}, "has the box head 2fc: add `box_head=2fc`"),
    ],
    ids=["conventions", "box head"],
)
def test_contradictions_are_refused(changes: dict[str, str], sentence: str, weights: Path) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        build_detector(_settings(weights, **changes), 3)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_header_names_the_conventions_of_the_weights(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--steps", "1", "--limit-train", "2", "--limit-val", "2", "--batch-size", "2", "--no-plots"]
    train = ["train", "--model", _NAME, "--data", "scenes", "--weights", str(weights), *small]
    assert main([*train, "--output", str(tmp_path / "run")]) == 0
    header = capsys.readouterr().out
    assert f"conventions mmdet1, those of {weights}" in header
    assert "preset mmdet-1x with conventions mmdet1" in header
    assert main([*train, "--output", str(tmp_path / "other"), "--conventions", "torchvision"]) == 2
    assert "--conventions torchvision gives other outputs than" in capsys.readouterr().err
