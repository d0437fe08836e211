"""Checkpoints of networks for other libraries: bit-equal weights, and errors for networks that do not fit."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor

import gcnet
from checkpoint_layouts import layout
from gcnet.cli import main
from gcnet.errors import UserError
from gcnet.models.card import card_of
from gcnet.models.conversion import convert_weights
from gcnet.models.library_checkpoints import to_library_checkpoint

_SMALL: dict[str, Any] = {"fpn_channels": 32, "head_width": 16}


def _assert_same(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], tensor) for key, tensor in expected.items())


def test_a_checkpoint_of_mmdet_returns_bit_for_bit_through_a_model_file(tmp_path: Path) -> None:
    original = layout("mmdet/faster_rcnn_r18_3_classes").checkpoint()
    torch.save(original, tmp_path / "original.pth")
    model, back = str(tmp_path / "model.safetensors"), tmp_path / "back.pth"
    assert main(["convert", str(tmp_path / "original.pth"), "--output", model]) == 0
    assert main(["convert", model, "--to", "mmdet", "--output", str(back)]) == 0
    content = torch.load(back, weights_only=True)
    _assert_same(content["state_dict"], original["state_dict"])
    back.write_text("older")
    assert main(["convert", model, "--to", "mmdet", "--output", str(back)]) == 2
    assert back.read_text() == "older"
    assert main(["convert", model, "--to", "mmdet", "--output", str(back), "--overwrite"]) == 0
    _assert_same(torch.load(back, weights_only=True)["state_dict"], original["state_dict"])


def test_a_checkpoint_of_timm_loads_in_timm_and_gives_the_same_outputs(tmp_path: Path) -> None:
    model = gcnet.convert_checkpoint(timm.create_model("gcresnext26ts", num_classes=7).state_dict())
    gcnet.save_model(model, tmp_path / "model.safetensors")
    output = tmp_path / "back.safetensors"
    assert main(["convert", str(tmp_path / "model.safetensors"), "--to", "timm", "--output", str(output)]) == 0
    original = timm.create_model("gcresnext26ts", num_classes=7).eval()
    original.load_state_dict(load_file(output))
    images = torch.rand(1, 3, 97, 97)
    with torch.no_grad():
        torch.testing.assert_close(model(images), original(images), rtol=1e-5, atol=1e-6)


def test_a_trained_classifier_loads_in_torchvision() -> None:
    model = gcnet.create_model("resnet18", num_classes=5).eval()
    original = torchvision.models.resnet18(num_classes=5).eval()
    original.load_state_dict(to_library_checkpoint(model, "torchvision"))
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(model(images), original(images))


@pytest.mark.slow
@pytest.mark.parametrize("block", ["gc", "nl_dot_product", "nl_gaussian", None])
def test_detectors_with_blocks_convert_to_mmdet_and_back(block: str | None) -> None:
    places: dict[str, Any] = {} if block is None else {"block": block, "stages": (3, 4), "position": "after_norm"}
    model = gcnet.create_model("mask_rcnn_resnet18", num_classes=3, detector=_SMALL, **places)
    content = to_library_checkpoint(model, "mmdet")
    again = convert_weights(content, "mmdet")
    assert again.network.architecture == "mask_rcnn_resnet18"
    own, other = model.state_dict(), again.model.state_dict()
    for key, tensor in own.items():  # the background has no box deltas and no mask, whatever these rows are
        first = 4 if "box_predictor.bbox_pred" in key else 1 if "mask_fcn_logits" in key else 0
        assert torch.equal(tensor[first:] if first else tensor, other[key][first:] if first else other[key]), key


def _detector(**options: Any) -> torch.nn.Module:
    return gcnet.create_model("faster_rcnn_resnet18", num_classes=2, detector={**_SMALL, **options})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "library", "reason"),
    [
        (lambda: gcnet.create_model("gc_resnet50"), "torchvision", "torchvision has no context blocks"),
        (lambda: gcnet.create_model("gc_resnet50"), "mmpretrain", "no counterpart in the other library"),
        (lambda: gcnet.create_model("resnet18"), "mmdet", "no counterpart in the other library"),
        (lambda: gcnet.create_model("gc_resnet50"), "timm", "timm cannot represent this resnet50"),
        (lambda: gcnet.create_model("vit_tiny_patch16_224"), "timm", "timm cannot represent this vit_tiny_patch16_224"),
        (_detector, "torchvision", "other anchors, RoIAlign and resizing than a detector of conventions mmdet"),
        (lambda: _detector(conventions="torchvision"), "mmdet", "conventions mmdet instead of torchvision"),
        (lambda: _detector(norm_eps=1e-3), "mmdet", "norm_eps 1e-05 instead of 0.001"),
        (
            lambda: gcnet.create_model("faster_rcnn_resnet18", detector=_SMALL, block="gc", position="after_add"),
            "mmdet",
            "has blocks after_add, and gcnet has them after_conv3 or after_conv2",
        ),
        (
            lambda: gcnet.create_model("faster_rcnn_resnet18", detector=_SMALL, block="gc", norm_eps=1e-3),
            "mmdet",
            "another block at backbone.body.layer2.0",
        ),
        (lambda: gcnet.create_model("plain_seresnet50", block="eca", at="layer1.*.se"), "timm", "seresnet50"),
    ],
)
def test_a_network_that_a_library_does_not_have_is_refused(build: Any, library: str, reason: str) -> None:
    with pytest.raises(UserError) as error:
        to_library_checkpoint(build(), library)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_network_of_your_own_is_refused() -> None:
    with pytest.raises(UserError, match="requires a network by name"):
        to_library_checkpoint(torch.nn.Linear(2, 2), "mmdet")
    assert card_of(torch.nn.Linear(2, 2)).architecture is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--to", "mmdet", "--output", "a.onnx"), "--output must be a new checkpoint of mmdet ending in .pth or .pt"),
        (
            ("--to", "mmpretrain", "--output", "a.safetensors"),
            "of mmpretrain ending in .pth or .pt, found a.safetensors",
        ),
        (("--output", "a.pth"), "--output must be a new model file ending in .safetensors"),
        (("--to", "mmdet", "--output", "a.pth", "--from", "mmdet"), "--from cannot be combined with --to"),
        (("--to", "mmdet", "--output", "a.pth", "--ema"), "--ema cannot be combined with --to"),
        (("--to", "mmdett", "--output", "a.pth"), 'did you mean "mmdet"'),
        (("--output", "a.safetensors", "--download"), "--download belongs to a model on the Hub"),
    ],
    ids=["suffix", "no metadata", "model suffix", "from", "ema", "library", "download"],
)
def test_mistakes_on_the_command_line_are_one_sentence(
    arguments: tuple[str, ...], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "model.safetensors", *arguments]) == 2
    message = capsys.readouterr().err
    assert error in message and message.count("\n") == 1
